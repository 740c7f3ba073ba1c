"""Writes the checkpoint in this folder with TensorFlow itself, which the tests do not need: `python write.py`.

Names and shapes are those of `src/model.py` in github.com/openai/gpt-2, values as `value_of` in
`tests/test_checkpoints_openai.py` has them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

HPARAMS = {"n_vocab": 61, "n_ctx": 24, "n_embd": 16, "n_head": 2, "n_layer": 2}
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else __file__).parent


def shapes() -> dict[str, list[int]]:
    D = HPARAMS["n_embd"]
    found = {"model/wpe": [HPARAMS["n_ctx"], D], "model/wte": [HPARAMS["n_vocab"], D]}
    for i in range(HPARAMS["n_layer"]):
        for norm in ("ln_1", "ln_2"):
            found |= {f"model/h{i}/{norm}/g": [D], f"model/h{i}/{norm}/b": [D]}
        for name, nx, nf in (
            ("attn/c_attn", D, 3 * D),
            ("attn/c_proj", D, D),
            ("mlp/c_fc", D, 4 * D),
            ("mlp/c_proj", 4 * D, D),
        ):
            found |= {f"model/h{i}/{name}/w": [1, nx, nf], f"model/h{i}/{name}/b": [nf]}
    return found | {"model/ln_f/g": [D], "model/ln_f/b": [D]}


def values(name: str, shape: list[int]) -> np.ndarray:
    ramp = np.arange(np.prod(shape)) * 7919 + sum(name.encode()) * 104729
    return ((ramp % 2001 - 1000) / 1000).astype(np.float32).reshape(shape)


tf.compat.v1.disable_eager_execution()
variables = [tf.compat.v1.get_variable(n, initializer=values(n, s)) for n, s in shapes().items()]
with tf.compat.v1.Session() as session:
    session.run(tf.compat.v1.global_variables_initializer())
    saver = tf.compat.v1.train.Saver(variables)
    saver.save(session, str(FOLDER / "model.ckpt"), write_meta_graph=False)
(FOLDER / "hparams.json").write_text(json.dumps(HPARAMS, indent=2) + "\n")
(FOLDER / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n')
