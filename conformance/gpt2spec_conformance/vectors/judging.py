"""The answers that an implementation wrote are judged: cases are put to a subject that answers from its files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gpt2spec.errors import DataError, nearest
from gpt2spec.files import sha256_of_file
from gpt2spec_conformance.case import Answer, Case, Nonconformance
from gpt2spec_conformance.findings import SessionReport
from gpt2spec_conformance.session import run_session
from gpt2spec_conformance.vectors.exporting import FORMAT, MANIFEST, QUESTIONS, make_export
from gpt2spec_conformance.vectors.questions import OPERATIONS, Correspondent, Question, exportable_cases, questionnaire


class VectorSubject(Correspondent):
    """An implementation that answers by files.

    Args:
        answers: what it wrote, by the name of the question.
        name: what reports call it.
        dtype: what it computed in.
    """

    def __init__(self, answers: Mapping[str, Answer], name: str = "vectors", dtype: str = "float32") -> None:
        self.answers = answers
        self.name = name
        self.dtype = dtype
        self._names = questionnaire().names

    def supports(self, operation: str) -> bool:
        """Whether files can put, and so answer, the operation."""
        return operation in OPERATIONS

    def reply(self, question: Question) -> Answer:
        """The tensors of the file. Raises `Nonconformance` unless they are those that were asked for, and finite."""
        name = self._names[question.key]
        answer = self.answers[name]
        _check_answer(name, answer, question.returns)
        return answer

    def cases(self) -> list[Case]:
        """All exportable cases; those with a question that was not answered ask for what no subject has."""
        asked_by = questionnaire().asked_by
        return [
            case
            if all(name in self.answers for name in asked_by[case.id])
            else dataclasses.replace(case, operation="output file")
            for case in exportable_cases()
        ]


def _check_answer(name: str, answer: Answer, returns: Mapping[str, tuple[int, ...]]) -> None:
    file = f"{name}.safetensors"
    for tensor, shape in returns.items():
        if tensor not in answer:
            raise Nonconformance(f"{file} has no tensor {tensor!r}{nearest(tensor, answer)}")
        found = answer[tensor]
        if found.shape != shape:
            raise Nonconformance(f"{tensor} of {file} has shape {list(found.shape)}; {list(shape)} is expected")
        if wrong := int(np.sum(~np.isfinite(found))):
            raise Nonconformance(f"{tensor} of {file} has {wrong} of {found.size} values that are NaN or infinite")
    if unknown := sorted(set(answer) - set(returns)):
        raise Nonconformance(f"{file} has {unknown[0]!r}, which was not asked for")


def judge(
    folder: Path,
    outputs: Path,
    name: str = "vectors",
    dtype: str = "float32",
    progress: Callable[[Case], None] = lambda case: None,
) -> SessionReport:
    """Judges the answers of an implementation.

    Args:
        folder: what `export` wrote.
        outputs: a folder with `<question>.safetensors` for each question that was answered.
        name: what reports call the implementation.
        dtype: what it computed in: errors are measured in this dtype's epsilon.
        progress: called before each case.

    Returns:
        The session; cases with an unanswered question are unsupported in it.

    Raises:
        DataError: a file is missing, damaged or of another version, or `outputs` has nothing to judge.
    """
    subject = read_subject(folder, outputs, name, dtype)
    return run_session(subject, subject.cases(), progress=progress)


def read_subject(folder: Path, outputs: Path, name: str = "vectors", dtype: str = "float32") -> VectorSubject:
    """The subject that answered the questions in `folder` by the files in `outputs`; see `judge`."""
    check_export(folder)
    return VectorSubject(read_outputs(outputs), name, dtype)


def check_export(folder: Path) -> None:
    """Raises `DataError` unless `folder` has the questions that this version of the suite asks, undamaged."""
    manifest = _read_manifest(folder)
    again = "`gpt2spec vectors export` makes the questions anew"
    if manifest.get("format") != FORMAT:
        raise DataError(f"{folder / MANIFEST} has format {manifest.get('format')!r}, not {FORMAT}; {again}")
    made, files = make_export().manifest, manifest.get("files")
    if (
        manifest.get("questions") != made["questions"]
        or not isinstance(files, dict)
        or set(files) != set(made["files"])
    ):
        raise DataError(f"{folder / MANIFEST} is not of this version of the suite, or was changed; {again}")
    for name, described in files.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing; {again}")
        if described != {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}:
            raise DataError(f"{path} is damaged: its size or SHA-256 is not the manifest's; {again}")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; a folder of `gpt2spec vectors export` is expected"
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise DataError(f"{path} is not a manifest")
    return manifest


def read_outputs(folder: Path) -> dict[str, Answer]:
    """The answers in a folder by the name of the question. Raises `DataError` where a file cannot be used."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; a file <question>.safetensors for each answer is expected in it")
    questions = questionnaire().questions
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise DataError(f"{folder} has no .safetensors file; the questions' names are in {QUESTIONS}")
    for path in paths:
        if path.stem not in questions:
            raise DataError(f"{path}: there is no question {path.stem!r}{nearest(path.stem, questions)}")
    return {path.stem: _read_tensors(path) for path in paths}


def _read_tensors(path: Path) -> Answer:
    try:
        tensors = load_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a safetensors file that can be used: {error!r}") from None
    for name, tensor in tensors.items():
        if not np.issubdtype(tensor.dtype, np.floating):
            raise DataError(f"{path}: {name!r} is {tensor.dtype}; float32, float16 or float64 is expected")
    return tensors
