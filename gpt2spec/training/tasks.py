"""The tasks of `gpt2spec eval` that a run asks its model between steps, with the weights as they are on the device."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gpt2spec.config import GPT2Config
from gpt2spec.data.dataset import Dataset
from gpt2spec.errors import ConfigError
from gpt2spec.tasks.cache import AnswerCache
from gpt2spec.tasks.evaluate import Model, Questions, Result, questions_of, scored
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.registry import load_task
from gpt2spec.tokenizer import Tokenizer
from gpt2spec.training.progress import Progress
from gpt2spec.training.settings import RunSettings


def read_tasks(
    settings: RunSettings, config: GPT2Config, dataset: Dataset, tokenizer: Tokenizer | None
) -> list[Questions]:
    """What the settings' tasks ask: read before the run begins, so that all that is wrong is told then."""
    if not settings.tasks:
        return []
    if tokenizer is None:
        raise ConfigError(f"the tokenizer of {dataset.name} is unknown, so no task can be read: leave out tasks")
    reader = Reader(tokenizer, config.n_ctx, stride=config.n_ctx)
    tasks = {name: load_task(name) for name in settings.tasks}
    return [
        questions_of(task, name, Path(settings.tasks[name]), reader, settings.task_limit)
        for name, task in tasks.items()
    ]


class Interrupted(Exception):
    """The run is to stop: what was answered of the task at hand is let go."""


class RunTasks:
    """The tasks of a run, and at which steps the model was scored in which."""

    def __init__(self, questions: list[Questions], every: int, records: Iterable[dict[str, Any]]) -> None:
        """`records` are the scores that the run has; `every` is the updates between scores, or 0 for the end."""
        self.questions, self.every = questions, every
        self.done = {(record["step"], record["task"]) for record in records}

    def due(self, step: int, last: bool) -> list[Questions]:
        """What is to be asked after a step, and was not yet."""
        if step == 0 or not (last or (self.every > 0 and step % self.every == 0)):
            return []
        return [each for each in self.questions if (step, each.name) not in self.done]

    def results(
        self, model: Model, step: int, due: list[Questions], progress: Progress, stopping: Callable[[], bool]
    ) -> Iterator[Result]:
        """The model's scores as they are known; `Interrupted` soon after `stopping` says so."""
        cache = AnswerCache()  # tasks may have requests in common
        for questions in due:
            result = scored(questions, model, cache, _Batches(progress, step, stopping))
            self.done.add((step, questions.name))
            yield result


class _Batches:
    """Told of every batch of answers: shows how far they are, and asks whether to go on."""

    def __init__(self, progress: Progress, step: int, stopping: Callable[[], bool]) -> None:
        self.progress, self.step, self.stopping = progress, step, stopping

    def begin(self, task: str, requests: int, done: int, tokens: int) -> None:
        """All processes of a run ask here and after each batch, so that none waits for another for long."""
        self.task, self.requests, self.done = task, requests, done
        self._go_on()

    def advance(self, requests: int, tokens: int) -> None:
        """A task whose last answer is known is scored in any case."""
        self.done += requests
        if self.done < self.requests:
            self.progress.note(f"step {self.step:>6}  {self.task}: {self.done:,} of {self.requests:,} answers")
            self._go_on()

    def _go_on(self) -> None:
        if self.stopping():
            raise Interrupted
