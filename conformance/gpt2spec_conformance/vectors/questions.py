"""The questions that files can put are those that the cases ask, found by asking them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2spec.config import GPT2Config
from gpt2spec.optimizer import AdamW
from gpt2spec.parameters import HostParams
from gpt2spec_conformance.case import Answer, Case
from gpt2spec_conformance.cases import all_cases
from gpt2spec_conformance.runner import oracle
from gpt2spec_conformance.subject import Subject

OPERATIONS = ("logits", "taps", "loss", "loss_and_gradients", "adamw_steps")
"""The operations that files can ask for."""
FAMILIES = ("model", "loss", "gradient", "optimizer")
"""The families whose cases are exported."""
NOT_IN_FILES = ("model.laws.repeated",)
"""Cases about what an implementation keeps from one call to the next, which files cannot show."""
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
    """Records its questions and answers as the oracle does, so that every case goes on to its end."""

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
        """The names of the questions by their keys."""
        return {question.key: name for name, question in self.questions.items()}


def exportable_cases() -> list[Case]:
    """The cases of the suite whose questions files can put."""
    cases = [case for case in all_cases() if case.family in FAMILIES and case.operation in OPERATIONS]
    return [case for case in cases if case.id not in NOT_IN_FILES]


@functools.cache
def questionnaire() -> Questionnaire:
    """Asks the exportable cases what they ask."""
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
