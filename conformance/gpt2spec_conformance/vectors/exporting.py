"""The export writes the questions: weights and inputs as safetensors files, a list of all questions, a manifest."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from gpt2spec.files import atomic_folder, make_folder
from gpt2spec.parameters import weight_table
from gpt2spec_conformance.cases.inputs import MODELS
from gpt2spec_conformance.vectors.questions import digest, questionnaire
from gpt2spec_conformance.weights import WEIGHT_SETS, weight_set

FORMAT = 1
"""Version of the files; another one is refused."""
MANIFEST = "manifest.json"
QUESTIONS = "questions.txt"


@dataclass(frozen=True)
class Export:
    """The files of an export: their bytes by their paths within the folder, and the manifest."""

    files: Mapping[str, bytes]
    manifest: dict[str, Any]


@functools.cache
def make_export() -> Export:
    """Makes all files of an export."""
    files: dict[str, bytes] = {}
    listed = []
    weight_names = _names_of_weights()
    for name, question in questionnaire().questions.items():
        weights = f"weights/{weight_names.get(digest(question.weights), name)}.safetensors"
        inputs = f"inputs/{name}.safetensors"
        files[weights], files[inputs] = as_safetensors(question.weights), as_safetensors(question.inputs)
        listed.append(
            {
                "name": name,
                "operation": question.operation,
                "weights": weights,
                "inputs": inputs,
                "settings": dict(question.settings),
                "returns": {tensor: list(shape) for tensor, shape in question.returns.items()},
                "sha256": question.key,
            }
        )
    files[QUESTIONS] = "".join(map(_as_line, listed)).encode()
    described = {
        path: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in sorted(files.items())
    }
    return Export(files, {"format": FORMAT, "questions": listed, "files": described})


def export(folder: Path) -> dict[str, Any]:
    """Writes the questions into a new or empty folder.

    Args:
        folder: it and its parents are made; nothing is left of it where writing fails.

    Returns:
        The manifest, as in `manifest.json`.

    Raises:
        StorageError: the folder cannot be written, or has something in it.
    """
    made = make_export()
    folder = folder.absolute()
    make_folder(folder.parent)
    with atomic_folder(folder) as temporary:
        for path, data in made.files.items():
            make_folder((temporary / path).parent)
            (temporary / path).write_bytes(data)
        (temporary / MANIFEST).write_text(json.dumps(made.manifest, indent=2) + "\n", encoding="utf-8")
    return made.manifest


def _names_of_weights() -> dict[bytes, str]:
    named = {f"{kind}.{size}": weight_set(kind, config) for kind in WEIGHT_SETS for size, config in MODELS.items()}
    for size, config in MODELS.items():
        named[f"zeros.{size}"] = {weight.name: np.zeros(weight.shape, np.float32) for weight in weight_table(config)}
    return {digest(weights): name for name, weights in named.items()}


def _as_line(question: Mapping[str, Any]) -> str:
    """Writes a question as `key=value` words, for programs without a JSON parser."""
    words = {key: question[key] for key in ("name", "operation", "weights", "inputs")} | question["settings"]
    return " ".join(f"{key}={value}" for key, value in words.items()) + "\n"


def as_safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file with some named arrays."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
