"""This module keeps answers that were computed before, so that an interrupted evaluation can be resumed.

There is one file per model, with one line per answer: [key of the request, answer]. Lines are appended one batch at a
time; an incomplete line, left by a killed process, is ignored. The file's name depends on the model's weights and on
the backend, and the key on the request, so an answer is computed again when any of these changes.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import platformdirs

from gpt2spec.config import GPT2Config
from gpt2spec.files import make_folder, storage_errors
from gpt2spec.parameters import HostParams
from gpt2spec.tasks.requests import Answer, Request, answer_from_json, key_of


class AnswerCache:
    """Answers in a file, or only in memory where no file is given."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lines: dict[str, list[object]] = {}
        if path is not None and path.exists():
            with path.open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    self._remember(line)

    def __contains__(self, request: Request) -> bool:
        return key_of(request) in self._lines

    def __getitem__(self, request: Request) -> Answer:
        return answer_from_json(request, self._lines[key_of(request)])

    def add(self, answered: Iterable[tuple[Request, Answer]]) -> None:
        """Add answers, which are in the file when this returns."""
        lines = [json.dumps([key_of(request), answer.to_json()]) for request, answer in answered]
        for line in lines:
            self._remember(line)
        if self.path is None:
            return
        make_folder(self.path.parent)
        with storage_errors(self.path), self.path.open("ab") as file:
            # The line feed comes first, to end an incomplete line that a killed process may have left.
            file.write(("\n" + "\n".join(lines) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    def _remember(self, line: str) -> None:
        try:
            key, answer = json.loads(line)
        except (ValueError, TypeError):
            return
        self._lines[key] = answer


def fingerprint(config: GPT2Config, params: HostParams, *computing: object) -> str:
    """A name for the answers of a model: a hash of its shape, its weights and what computes (backend, dtype, …)."""
    digest = hashlib.blake2b(repr((config, computing)).encode(), digest_size=16)
    for name in sorted(params):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(params[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def default_folder() -> Path:
    """The folder for answers where none is given, in the user's cache."""
    return platformdirs.user_cache_path("gpt2spec") / "eval"
