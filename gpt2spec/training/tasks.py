"""The tasks of `gpt2spec eval` that a run asks its model between steps, with the weights as they are on the device."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt2spec.config import GPT2Config
from gpt2spec.data.dataset import Dataset
from gpt2spec.device_weights import OnDevice
from gpt2spec.errors import ConfigError
from gpt2spec.tasks.cache import AnswerCache
from gpt2spec.tasks.evaluate import Model, Questions, Result, questions_of, scored
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.registry import load_task
from gpt2spec.tasks.report import figure, finite, result_json
from gpt2spec.tokenizer import Tokenizer
from gpt2spec.training.reports import Reports
from gpt2spec.training.run import Run
from gpt2spec.training.run_directory import TASKS


def read_tasks(
    data: Mapping[str, str], limit: int | None, config: GPT2Config, dataset: Dataset, tokenizer: Tokenizer | None
) -> list[Questions]:
    """Read what tasks ask; before the run begins, so that whatever is wrong with their data is reported then.

    Args:
        data: the data of each task, by its name.
        limit: only so many examples of each task, the first ones; None is all.
        config: the model that is asked.
        dataset: what it learns.
        tokenizer: reads the tasks' text.
    """
    if not data:
        return []
    if tokenizer is None:
        raise ConfigError(f"the tokenizer of {dataset.name} is unknown, so no task can be read: leave out tasks")
    reader = Reader(tokenizer, config.n_ctx, stride=config.n_ctx)
    tasks = {name: load_task(name) for name in data}
    return [questions_of(task, name, Path(data[name]), reader, limit) for name, task in tasks.items()]


class Interrupted(Exception):
    """The run is interrupted, and the answers of the current task are dropped."""


class Scores:
    """The scores of a run in its tasks: a `Callback`."""

    def __init__(self, run: Run, every: int, records: Iterable[dict[str, Any]], reports: Reports) -> None:
        """Score the model every so many steps, or with 0 at the end; `records` are the scores that the run has."""
        self._run, self._every, self._reports = run, every, reports
        self._done = {(record["step"], record["task"]) for record in records}

    def due(self, step: int) -> bool:
        """Scores are due every so many steps and at the end, unless those of the step are known."""
        return bool(self._unanswered(step))

    def run(self) -> None:
        """Score the model in the tasks that are due, and record the scores. An interruption ends this soon."""
        run, due = self._run, self._unanswered(self._run.step)
        cache = AnswerCache()  # tasks may have requests in common
        params, sharding = run.state["params"], run.backend.sharding
        params = OnDevice(params if sharding is None else sharding.gather(params))
        model = Model(run.backend, run.config, params, due[0].reader.tokenizer, run.settings.batch_size)
        try:
            for questions in due:
                result = scored(questions, model, cache, _Batches(run, self._reports))
                self._done.add((run.step, questions.name))
                self._report(result)
        except Interrupted:
            self._reports.message(f"step {run.step:>6}  tasks: interrupted; a resumed run asks again")

    def _unanswered(self, step: int) -> list[Questions]:
        if step == 0 or not (self._run.at_end or (self._every > 0 and step % self._every == 0)):
            return []
        return [each for each in self._run.questions if (step, each.name) not in self._done]

    def _report(self, result: Result) -> None:
        step, limit = self._run.step, self._run.settings.task_limit
        for score in result.scores:
            self._reports.message(f"step {step:>6}  {result.task}: {score.name} {figure(score)}  [{score.protocol}]")
        self._reports.record(TASKS, {"step": step, "limit": limit, **result_json(result)})
        values = finite({f"{result.task}/{score.name}": score.value for score in result.scores})
        self._reports.board({"step": step, **values})


class _Batches:
    """Shows how many answers there are after every batch, and ends the task when the run is interrupted."""

    def __init__(self, run: Run, reports: Reports) -> None:
        self.step, self._run, self._reports = run.step, run, reports

    def begin(self, task: str, requests: int, done: int, tokens: int) -> None:
        """Begin a task. All processes look for interruptions here and after each batch, so that none waits long."""
        self.task, self.requests, self.done = task, requests, done
        self._go_on()

    def advance(self, requests: int, tokens: int) -> None:
        """Count answers; a task whose last answer is known is scored in any case."""
        self.done += requests
        if self.done < self.requests:
            self._reports.note(f"step {self.step:>6}  {self.task}: {self.done:,} of {self.requests:,} answers")
            self._go_on()

    def _go_on(self) -> None:
        if self._run.interrupted():
            raise Interrupted
