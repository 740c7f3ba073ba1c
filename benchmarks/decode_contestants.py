"""Greedy decoding of GPT-2 124M with random weights: through gpt2spec, and by Hugging Face and CTranslate2.

A contestant is made for a number of rows and continues that many random prompts of 32 tokens by 128 tokens. As a
program, it says "ready" and then, for every line with a number of new tokens, how many seconds they took:

    python benchmarks/decode_contestants.py "gpt2spec torch" float32 1
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpt2spec import GenerateOptions, Generator, initial_parameters, load_backend, preset
from gpt2spec.tokenizer import gpt2_tokenizer

CONFIG = preset("gpt2", dropout=0.0)
PROMPT, NEW = 32, 128

Decode = Callable[[int], list[list[int]]]
"""A function from a number of new tokens to the new tokens of every row."""


def prompts(rows: int) -> list[list[int]]:
    return np.random.default_rng(0).integers(0, 50256, (rows, PROMPT)).tolist()


def ours(rows: int, backend: str, **options: Any) -> Decode:
    generator = Generator(load_backend(backend, **options), CONFIG, initial_parameters(CONFIG))

    def decode(count: int) -> list[list[int]]:
        settings = GenerateOptions(max_new_tokens=count, temperature=0.0, batch_size=rows)
        return [generation.tokens for generation in generator.generate(prompts(rows), settings)]

    return decode


def hugging_face(rows: int, dtype: str = "float32") -> Decode:
    import torch

    model = hugging_face_model().to(getattr(torch, dtype))
    tokens = torch.tensor(prompts(rows))

    def decode(count: int) -> list[list[int]]:
        with torch.inference_mode():
            out = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=count, do_sample=False, pad_token_id=0
            )
        return out[:, PROMPT:].tolist()

    return decode


def ctranslate2(rows: int, dtype: str = "float32") -> Decode:
    import ctranslate2 as ct2

    with tempfile.TemporaryDirectory() as folder:
        model, converted = Path(folder, "model"), Path(folder, "converted")
        hugging_face_model().save_pretrained(model)
        write_tokenizer(model)
        ct2.converters.TransformersConverter(str(model)).convert(str(converted))
        generator = ct2.Generator(str(converted), compute_type=dtype, intra_threads=2, inter_threads=1)
    words = [[f"t{token}" for token in row] for row in prompts(rows)]

    def decode(count: int) -> list[list[int]]:
        found = generator.generate_batch(
            words, max_length=count, min_length=count, include_prompt_in_result=False, sampling_topk=1, beam_size=1
        )
        return [list(result.sequences_ids[0]) for result in found]

    return decode


def hugging_face_model() -> Any:
    """Their model with our weights, and no token that ends a text."""
    import torch
    import transformers
    from gpt2spec_conformance.subjects.huggingface import build

    model = build(CONFIG)
    params = initial_parameters(CONFIG)
    state = {f"transformer.{name}": torch.tensor(x) for name, x in params.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    transformers.utils.logging.set_verbosity_error()
    return model.eval()


def write_tokenizer(folder: Path) -> None:
    """A vocabulary for CTranslate2, which wants to see one: what its tokens are does not matter here."""
    assert gpt2_tokenizer().vocab_size == CONFIG.vocab_size
    words = [f"t{i}" for i in range(CONFIG.vocab_size - 1)] + ["<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<|endoftext|>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def contestant(who: str, how: str, rows: int) -> Decode:
    """The contestants under their names in the table of results."""
    if who == "Hugging Face":
        return hugging_face(rows, how)
    if who == "CTranslate2":
        return ctranslate2(rows, how)
    options: dict[str, Any] = {
        "float32": {},
        "bfloat16": {"dtype": "bfloat16"},
        "int8": {"int8": True},
        "float32, --no-compile": {"compile": False},
    }[how]
    return ours(rows, who.split()[1], **options)


if __name__ == "__main__":
    decode = contestant(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        decode(int(line))
        print(time.perf_counter() - start, flush=True)
