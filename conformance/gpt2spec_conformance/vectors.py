"""The suite for implementations in any language: questions go out as files, and answers come back as files.

`export` writes every question that a file can put: the model's shape, weights and tokens, or an optimizer's
settings and gradients. Nobody's answers are exported. `judge` reads what an implementation wrote and puts the very
same cases to a subject that answers from those files.

A question is known by what it asks, so cases that ask the same thing share one file of answers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from gpt2spec.config import GPT2Config
from gpt2spec.errors import DataError, nearest
from gpt2spec.files import atomic_folder, make_folder, sha256_of_file
from gpt2spec.optimizer import AdamW
from gpt2spec.parameters import HostParams, weight_table
from gpt2spec_conformance.case import Answer, Case, Nonconformance
from gpt2spec_conformance.cases import all_cases
from gpt2spec_conformance.cases.inputs import MODELS
from gpt2spec_conformance.runner import oracle
from gpt2spec_conformance.session import SessionReport, run_session
from gpt2spec_conformance.subject import Subject
from gpt2spec_conformance.weights import WEIGHT_SETS, weight_set

FORMAT = 1
"""Version of the files; another one is refused."""
MANIFEST = "manifest.json"
QUESTIONS = "questions.txt"
OPERATIONS = ("logits", "taps", "loss", "loss_and_gradients", "adamw_steps")
"""What files can ask for."""
FAMILIES = ("model", "loss", "gradient", "optimizer")
"""Whose cases are exported."""
NOT_IN_FILES = ("model.laws.repeated",)
"""Cases about what an implementation keeps from one call to the next: files cannot show it."""
MODEL_SETTINGS = ("n_layer", "n_head", "n_embd", "n_ctx", "vocab_size", "layer_norm_epsilon")


@dataclass(frozen=True)
class Question:
    """One call of an implementation.

    Attributes:
        operation: one of `OPERATIONS`.
        settings: the model's, by the names of `GPT2Config`; for `adamw_steps` those of the optimizer and the number
            of updates, and of the model what decides its weights' shapes.
        weights: float32 arrays by the names of `gpt2spec.parameters`.
        inputs: what else is given: `tokens` and `targets`, int32 [B, T]; for `adamw_steps` the gradients of update
            n as `n.<weight>`, float32, and `rates`, the learning rate of each update, float64.
        returns: the tensors of the answer and their shapes.
    """

    operation: str
    settings: Mapping[str, str | float]
    weights: HostParams
    inputs: Mapping[str, np.ndarray]
    returns: Mapping[str, tuple[int, ...]]

    @property
    def key(self) -> str:
        """A digest of all that is asked."""
        text = json.dumps([self.operation, *sorted(self.settings.items())])
        return hashlib.sha256(text.encode() + digest(self.weights) + digest(self.inputs)).hexdigest()


def digest(arrays: Mapping[str, np.ndarray]) -> bytes:
    """SHA-256 of named arrays with their dtypes and shapes, whatever their order."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return found.digest()


def as_safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named arrays as the bytes of a safetensors file."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


class Correspondent(Subject):
    """A subject that turns each call into a `Question` and has it answered by `reply`."""

    def reply(self, question: Question) -> Answer:
        """Arrays with the names and shapes of `question.returns`."""
        raise NotImplementedError

    def logits(self, config: GPT2Config, params: HostParams, tokens: np.ndarray) -> np.ndarray:  # noqa: D102
        shape = (*tokens.shape, config.vocab_size)
        return self._ask("logits", config, params, {"tokens": tokens}, {"logits": shape})["logits"]

    def taps(self, config: GPT2Config, params: HostParams, tokens: np.ndarray) -> dict[str, np.ndarray]:  # noqa: D102
        shape = (*tokens.shape, config.n_embd)
        names = [f"h.{i}.{tap}" for i in range(config.n_layer) for tap in ("attn", "mlp", "residual")]
        return self._ask("taps", config, params, {"tokens": tokens}, dict.fromkeys(names, shape))

    def loss(self, config: GPT2Config, params: HostParams, tokens: np.ndarray, targets: np.ndarray) -> float:  # noqa: D102
        batch = {"tokens": tokens, "targets": targets}
        return float(self._ask("loss", config, params, batch, {"loss": ()})["loss"])

    def loss_and_gradients(  # noqa: D102
        self, config: GPT2Config, params: HostParams, tokens: np.ndarray, targets: np.ndarray
    ) -> tuple[float, HostParams]:
        shapes = {name: array.shape for name, array in params.items()}
        batch = {"tokens": tokens, "targets": targets}
        answer = self._ask("loss_and_gradients", config, params, batch, {"loss": (), **shapes})
        return float(answer["loss"]), {name: answer[name] for name in shapes}

    def adamw_steps(  # noqa: D102
        self, adamw: AdamW, params: HostParams, gradients: Sequence[HostParams], rates: Sequence[float]
    ) -> list[HostParams]:
        updates = range(1, len(rates) + 1)
        given = {f"{n}.{name}": g.astype(np.float32) for n in updates for name, g in gradients[n - 1].items()}
        question = Question(
            "adamw_steps",
            {**table_settings(params), **dataclasses.asdict(adamw), "updates": len(rates)},
            params,
            {**given, "rates": np.array(rates, np.float64)},
            {f"{n}.{name}": array.shape for n in updates for name, array in params.items()},
        )
        answer = self.reply(question)
        return [{name: answer[f"{n}.{name}"] for name in params} for n in updates]

    def _ask(
        self,
        operation: str,
        config: GPT2Config,
        params: HostParams,
        batch: Mapping[str, np.ndarray],
        returns: Mapping[str, tuple[int, ...]],
    ) -> Answer:
        inputs = {name: np.asarray(ids, np.int32) for name, ids in batch.items()}
        return self.reply(Question(operation, model_settings(config), params, inputs, returns))


def model_settings(config: GPT2Config) -> dict[str, str | float]:
    """The settings that decide what a model computes without dropout."""
    return {name: getattr(config, name) for name in MODEL_SETTINGS}


def table_settings(params: HostParams) -> dict[str, str | float]:
    """The settings that decide the names and shapes of weights, from the weights."""
    vocab_size, n_embd = params["wte.weight"].shape
    n_layer = sum(name.endswith(".ln_1.weight") for name in params)
    return {"n_layer": n_layer, "n_embd": n_embd, "n_ctx": len(params["wpe.weight"]), "vocab_size": vocab_size}


class Recorder(Correspondent):
    """Writes down what it is asked, and answers as the oracle, so that every case goes on to its end."""

    name = "recorder"
    dtype = "float64"

    def __init__(self) -> None:
        self.asked: list[Question] = []
        for operation in OPERATIONS:
            setattr(self, operation, functools.partial(self._record, operation))

    def reply(self, question: Question) -> Answer:  # noqa: D102
        self.asked.append(question)
        return {name: np.zeros(shape) for name, shape in question.returns.items()}

    def _record(self, operation: str, *args: Any) -> Any:
        getattr(super(), operation)(*args)
        return getattr(oracle(), operation)(*args)


@dataclass(frozen=True)
class Questionnaire:
    """All questions that files can put.

    Attributes:
        questions: by name: that of the first case that asks it, numbered from its second one on.
        asked_by: case id -> the names of what it asks.
    """

    questions: Mapping[str, Question]
    asked_by: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> dict[str, str]:
        """Question key -> its name."""
        return {question.key: name for name, question in self.questions.items()}


def exportable_cases() -> list[Case]:
    """The cases of the suite whose questions files can put."""
    cases = [case for case in all_cases() if case.family in FAMILIES and case.operation in OPERATIONS]
    return [case for case in cases if case.id not in NOT_IN_FILES]


@functools.cache
def questionnaire() -> Questionnaire:
    """What the exportable cases ask, found by asking."""
    names: dict[str, str] = {}
    questions: dict[str, Question] = {}
    asked_by = {}
    for case in exportable_cases():
        recorder = Recorder()
        case.ask(recorder)
        keys = [question.key for question in recorder.asked]
        fresh = {key: q for key, q in zip(keys, recorder.asked, strict=True) if key not in names}
        for number, (key, question) in enumerate(fresh.items(), 1):
            names[key] = case.id if number == 1 else f"{case.id}.{number}"
            questions[names[key]] = question
        asked_by[case.id] = tuple(dict.fromkeys(names[key] for key in keys))
    return Questionnaire(questions, asked_by)


# ---------------------------------------------------------------------- export


@dataclass(frozen=True)
class Export:
    """The files of an export: their bytes by their paths within the folder, and the manifest."""

    files: Mapping[str, bytes]
    manifest: dict[str, Any]


@functools.cache
def make_export() -> Export:
    """Everything that is to be written."""
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
    """Write the questions into a new or empty folder.

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
    """A question as `key=value` words, for programs without a JSON parser."""
    words = {key: question[key] for key in ("name", "operation", "weights", "inputs")} | question["settings"]
    return " ".join(f"{key}={value}" for key, value in words.items()) + "\n"


# ---------------------------------------------------------------------- judge


class VectorSubject(Correspondent):
    """An implementation that answered by files.

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
        """Files can answer what they can ask."""
        return operation in OPERATIONS

    def reply(self, question: Question) -> Answer:
        """The file's tensors. Raises `Nonconformance` unless they are those that were asked for, and finite."""
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
    """Put the cases to what an implementation answered.

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
    """Raise `DataError` unless `folder` has the questions that this version of the suite asks, undamaged."""
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
