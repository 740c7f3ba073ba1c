"""This module evaluates a model: it answers the requests of a task in batches and scores the answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding.generator import Generator
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.device_weights import Weights
from gpt2spec.errors import ConfigError, DataError
from gpt2spec.tasks.cache import AnswerCache
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Answer, Asked, Continuation, Continued, Likelihood, Request, key_of
from gpt2spec.tasks.scoring import Scorer, batches
from gpt2spec.tasks.task import Score, Task
from gpt2spec.tokenizer import Tokenizer


class Model:
    """A GPT-2 that answers requests. Its weights are put on the device at the first request of each kind."""

    def __init__(
        self,
        backend: Backend,
        config: GPT2Config,
        params: Weights,
        tokenizer: Tokenizer,
        batch_size: int = 16,
        stride: int | None = None,
    ) -> None:
        """Windows over long texts move on by `stride` tokens; None means the whole context."""
        if batch_size < 1:
            raise ConfigError(f"a batch has at least 1 row, not {batch_size}")
        if tokenizer.vocab_size > config.vocab_size:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, and the model {config.vocab_size}: "
                "they do not belong together"
            )
        self.reader = Reader(tokenizer, config.n_ctx, config.n_ctx if stride is None else stride)
        self.batch_size = batch_size
        self._with = (backend, config, params)
        self._scorer: Scorer | None = None
        self._generator: Generator | None = None

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer likelihoods with equal bans, or continuations with equal options."""
        likelihoods = [request for request in requests if isinstance(request, Likelihood)]
        if likelihoods:
            self._scorer = self._scorer or Scorer(*self._with, batch_size=self.batch_size)
            self._scorer.ban(likelihoods[0].banned)
            return list(self._scorer.score(likelihoods))
        self._generator = self._generator or Generator(*self._with, self.reader.tokenizer)
        prompts = [request.prompt for request in requests if isinstance(request, Continuation)]
        options = dataclasses.replace(_options(requests[0]), batch_size=self.batch_size)
        made = self._generator.generate(prompts, options)
        return [Continued(each.text or "", sum(each.logprobs)) for each in made]


class Progress(Protocol):
    """Shows how far an evaluation is."""

    def begin(self, task: str, requests: int, done: int, tokens: int) -> None:
        """A task begins: `done` of its different requests were answered before; the others have `tokens` tokens."""

    def advance(self, requests: int, tokens: int) -> None:
        """So many more requests, with so many tokens, were answered."""


@dataclass(frozen=True)
class Questions:
    """The examples of a task, and what is asked about each.

    Attributes:
        task: the task, from `gpt2spec.tasks.registry.load_task`.
        name: the name of the task.
        data: the file or folder of the examples.
        reader: turns texts into tokens for the model.
        examples: the examples, in the order of the data.
        requests: the requests about each example.
    """

    task: Task
    name: str
    data: Path
    reader: Reader
    examples: list[Any]
    requests: list[tuple[Request, ...]]


@dataclass(frozen=True)
class Result:
    """The scores of one task."""

    task: str
    data: Path
    examples: int
    scores: list[Score]


def evaluate(
    task: Task,
    name: str,
    data: Path,
    model: Model,
    cache: AnswerCache | None = None,
    progress: Progress | None = None,
    limit: int | None = None,
) -> Result:
    """Score a model in a task.

    Args:
        task: the task, from `gpt2spec.tasks.registry.load_task`.
        name: the name of the task.
        data: a file or folder in the dataset's own format.
        model: the model that answers.
        cache: keeps answers, so that an interrupted evaluation can be resumed by the same call.
        progress: shows how far the evaluation is.
        limit: uses only the first examples, so many of them.

    Raises:
        DataError: where the data is missing, empty, or in another format.
    """
    return scored(questions_of(task, name, data, model.reader, limit), model, cache, progress)


def questions_of(task: Task, name: str, data: Path, reader: Reader, limit: int | None = None) -> Questions:
    """Read the examples of a task and make the requests about them. Arguments and errors are those of `evaluate`."""
    if limit is not None and limit < 1:
        raise ConfigError(f"a limit is at least 1 example, not {limit}")
    examples = task.read(data)[:limit]
    if not examples:
        raise DataError(f"{data} holds no example of {name}")
    return Questions(task, name, data, reader, examples, [tuple(task.requests(each, reader)) for each in examples])


def scored(
    questions: Questions, model: Model, cache: AnswerCache | None = None, progress: Progress | None = None
) -> Result:
    """Score a model by its answers to `questions`, which were made for the model's reader."""
    cache = AnswerCache() if cache is None else cache
    answer_all([request for each in questions.requests for request in each], questions.name, model, cache, progress)
    asked = [Asked(each, tuple(cache[request] for request in each)) for each in questions.requests]
    scores = questions.task.scores(questions.examples, asked, questions.reader)
    return Result(questions.name, questions.data, len(questions.examples), scores)


def answer_all(
    requests: Sequence[Request], name: str, model: Model, cache: AnswerCache, progress: Progress | None = None
) -> None:
    """Put the answers to all requests into the cache, one batch at a time. Equal requests are answered once."""
    different = list({key_of(request): request for request in requests}.values())
    waiting = [request for request in different if request not in cache]
    if progress is not None:
        progress.begin(name, len(different), len(different) - len(waiting), sum(each.length for each in waiting))
    for batch in homogeneous_batches(waiting, model.batch_size, model.reader.n_ctx):
        cache.add(zip(batch, model.answer(batch), strict=True))
        if progress is not None:
            progress.advance(len(batch), sum(each.length for each in batch))


def homogeneous_batches(requests: Sequence[Request], batch_size: int, n_ctx: int) -> Iterator[list[Request]]:
    """Group requests into batches that one computation can answer, the longest requests first."""
    groups: dict[Any, list[Request]] = {}
    for request in requests:
        kind = request.banned if isinstance(request, Likelihood) else request.options
        groups.setdefault(kind, []).append(request)
    for group in groups.values():
        for places in batches([min(request.length, n_ctx) for request in group], batch_size, n_ctx):
            yield [group[i] for i in places]


def _options(request: Request) -> GenerateOptions:
    assert isinstance(request, Continuation)
    return request.options
