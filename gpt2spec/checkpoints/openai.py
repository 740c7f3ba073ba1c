"""This module reads OpenAI's release, a folder with `hparams.json` and a TensorFlow checkpoint.

Projections are [1, in, out], the kernels of a convolution of width 1. In the code, epsilon is 1e-5, and dropout is not
mentioned. Source: `src/model.py` and `download_model.py` of github.com/openai/gpt-2.
"""

import json
import re
from pathlib import Path

import numpy as np

from gpt2spec.checkpoints.reader import CheckpointReader, Entry, config_with, fitting
from gpt2spec.checkpoints.stored import read_errors
from gpt2spec.checkpoints.tensor_bundle import BundleTensor, open_bundle
from gpt2spec.config import VOCAB_SIZE, GPT2Config
from gpt2spec.errors import CheckpointError
from gpt2spec.tokenizer import gpt2_tokenizer

HPARAMS, POINTER = "hparams.json", "checkpoint"
_HPARAMS = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd", "n_ctx": "n_ctx", "vocab_size": "n_vocab"}
_LAST = {"w": "weight", "b": "bias", "g": "weight"}
_TRAINING = re.compile(r".*/Adam(_1)?|beta[12]_power|global_step")
"""Names of the optimizer's variables, which fine-tuned checkpoints may have."""


def open_openai(folder: Path) -> CheckpointReader:
    """Open a folder that has an `hparams.json`."""
    index = _index(folder)
    config = _config(folder / HPARAMS)
    entries = {our_name(name): _entry(name, t) for name, t in open_bundle(index).items() if not _TRAINING.match(name)}
    tokenizer = gpt2_tokenizer().id if config.vocab_size == VOCAB_SIZE else None
    return CheckpointReader(folder, "OpenAI", config, fitting(index, config, entries), tokenizer)


def our_name(name: str) -> str:
    """Translate `model/h0/attn/c_attn/w` into `h.0.attn.c_attn.weight`. Names of another form stay as they are."""
    first, *scopes = name.split("/")
    if first != "model" or not scopes:
        return name
    scopes[0] = re.sub(r"^h(\d+)$", r"h.\1", scopes[0])
    if scopes in (["wte"], ["wpe"]):
        return f"{scopes[0]}.weight"
    return ".".join([*scopes[:-1], _LAST.get(scopes[-1], scopes[-1])])


def _entry(name: str, tensor: BundleTensor) -> Entry:
    """The entry of a tensor; the first axis of a convolution's kernel, which is 1, is dropped."""
    if len(tensor.shape) == 3 and tensor.shape[0] == 1:

        def load() -> np.ndarray:
            return tensor.read()[0]

        return Entry(name, tensor.shape[1:], tensor.dtype, load)
    return Entry(name, tensor.shape, tensor.dtype, tensor.read)


def _config(path: Path) -> GPT2Config:
    with read_errors(path):
        given = json.loads(path.read_text(encoding="utf-8"))
    for name in _HPARAMS.values():
        if not isinstance(given, dict) or name not in given:
            raise CheckpointError(f"{path} lacks {name!r}")
    return config_with(path, {ours: given[theirs] for ours, theirs in _HPARAMS.items()})


def _index(folder: Path) -> Path:
    """The index file of the checkpoint that the file `checkpoint` names, or else the only one there is."""
    found = sorted(folder.glob("*.index"))
    if (folder / POINTER).is_file():
        with read_errors(folder / POINTER):
            text = (folder / POINTER).read_text("utf-8")
        named = re.search(r'^model_checkpoint_path: "([^"\n]+)"', text, re.MULTILINE)
        if named is None:
            raise CheckpointError(f"{folder / POINTER} does not say 'model_checkpoint_path: \"…\"'")
        index = folder / f"{Path(named[1]).name}.index"
        if index not in found:
            raise CheckpointError(f"{folder / POINTER} names {named[1]!r}, but there is no {index.name} beside it")
        return index
    if len(found) != 1:
        raise CheckpointError(f"{folder} has {len(found)} .index files and no file {POINTER!r} that names one of them")
    return found[0]
