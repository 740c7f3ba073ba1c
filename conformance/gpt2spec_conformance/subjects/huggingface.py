"""Hugging Face's `GPT2LMHeadModel` is a subject: `--subject gpt2spec_conformance.subjects.huggingface:subject`.

Nothing is downloaded: the models are built from configurations and get the suite's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from gpt2spec.checkpoints.huggingface import config_to_json
from gpt2spec.config import GPT2Config
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.parameters import HostParams
from gpt2spec_conformance.subjects.torch_module import TorchModuleSubject, to_numpy, to_torch

MODULES = ("wte", "wpe", *(f"h.{{i}}.{name}" for name in ("ln_1", "ln_2")), "ln_f")
PROJECTIONS = tuple(f"h.{{i}}.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))
NAMES = {name: f"transformer.{name}" for name in (*MODULES, *PROJECTIONS)}
"""Theirs are the specification's with a prefix, and `Conv1D` is [in, out]."""
PARTS = {"attn": "transformer.h.{i}.attn", "mlp": "transformer.h.{i}.mlp", "residual": "transformer.h.{i}"}


def build(config: GPT2Config) -> Any:
    """Builds their model with its own initial weights and without an end-of-text token."""
    fields = {**config_to_json(config), "bos_token_id": None, "eos_token_id": None}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**fields))


class HuggingFaceSubject(TorchModuleSubject):
    """Hugging Face's model with the key/value cache, filters and generation that come with it."""

    frameworks = ("torch", "transformers")

    def __init__(self, dtype: str = "float32") -> None:
        name = f"transformers {transformers.__version__} GPT2LMHeadModel"
        super().__init__(build, NAMES, parts=PARTS, name=name, dtype=dtype)

    def cached_logits(
        self, config: GPT2Config, params: HostParams, tokens: np.ndarray, lengths: Sequence[int], widths: Sequence[int]
    ) -> np.ndarray:
        """Reads each row by itself, since `past_key_values` has one length for all rows."""
        model = self.loaded(config, params)
        found = np.zeros((*tokens.shape, config.vocab_size))
        ends = np.cumsum(widths)
        for row, length in enumerate(lengths):
            cache = None
            for start, end in zip(ends - widths, np.minimum(ends, length), strict=True):
                if start < end:
                    with torch.no_grad():
                        out = model(to_torch(tokens[row : row + 1, start:end]), past_key_values=cache, use_cache=True)
                    cache = out.past_key_values
                    found[row, start:end] = to_numpy(out.logits[0])
        return found

    def token_probabilities(self, logits: np.ndarray, options: GenerateOptions, text: Sequence[int] = ()) -> np.ndarray:
        """Applies the logits processors of `generate` in its order; they know only one rule of top-p."""
        penalty, temperature = float(options.repetition_penalty), float(options.temperature)
        processors: list[Any] = [transformers.RepetitionPenaltyLogitsProcessor(penalty)] if text else []
        processors += [transformers.TemperatureLogitsWarper(temperature)]
        processors += [transformers.TopKLogitsWarper(options.top_k)] if options.top_k is not None else []
        processors += [transformers.TopPLogitsWarper(float(options.top_p))] if options.top_p is not None else []
        processors += [transformers.MinPLogitsWarper(float(options.min_p))] if options.min_p is not None else []
        ids, scores = to_torch(np.array([text])), torch.tensor(np.asarray(logits, np.float32))[None]
        for processor in processors:
            scores = processor(ids, scores)
        return to_numpy(scores.softmax(-1)[0])

    def generate(
        self, config: GPT2Config, params: HostParams, prompts: Sequence[Sequence[int]], options: GenerateOptions
    ) -> list[list[int]]:
        """Calls `model.generate` on prompts padded on the left, with PyTorch's generator seeded by the options."""
        width = max(map(len, prompts))
        tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            out = self.loaded(config, params).generate(tokens, attention_mask=mask, **_settings(options))
        return [_until(options.stop_tokens, list(map(int, row[width:]))) for row in out]


def _settings(options: GenerateOptions) -> dict[str, Any]:
    """The options by which tokens are chosen, in their words; top-k is 0 and top-p is 1 where there is none."""
    settings: dict[str, Any] = {
        "max_new_tokens": options.max_new_tokens,
        "num_return_sequences": options.samples,
        "pad_token_id": 0,
        "eos_token_id": list(options.stop_tokens) or None,
        "do_sample": False,
    }
    if options.repetition_penalty != 1.0:
        settings["repetition_penalty"] = float(options.repetition_penalty)
    if options.beams > 1:
        settings["num_beams"] = options.beams
        settings["length_penalty"] = options.length_penalty
        settings["early_stopping"] = options.early_stopping or "never"
    elif options.temperature != 0:
        settings["do_sample"] = True
        settings["temperature"] = options.temperature
        settings["top_k"] = options.top_k or 0
        settings["top_p"] = 1.0 if options.top_p is None else options.top_p
        settings["min_p"] = options.min_p
    return settings


def _until(stop_tokens: Sequence[int], tokens: list[int]) -> list[int]:
    """The tokens before the first stop token, which padding follows."""
    ends = [place for place, token in enumerate(tokens) if token in stop_tokens]
    return tokens[: min(ends, default=len(tokens))]


def subject() -> HuggingFaceSubject:
    """Makes the subject for `--subject`."""
    return HuggingFaceSubject()
