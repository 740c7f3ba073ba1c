"""What can be said of a task without loading it. Imports nothing."""

from dataclasses import dataclass

TASK_API_VERSION = 1
"""Version of the contract in `gpt2spec.tasks.task`. A plugin made for another is refused by name."""


@dataclass(frozen=True)
class TaskInfo:
    """A task's name card, as the hook `gpt2spec_tasks` returns them.

    Attributes:
        name: what `gpt2spec eval` takes.
        summary: one line for `gpt2spec eval --list`.
        data: what to give as its data, and where to get it.
        factory: `"package.module:callable"`, imported when the task is asked for; called without arguments, it
            returns a `gpt2spec.tasks.task.Task`.
        api_version: the version of the contract the task was written for.
    """

    name: str
    summary: str
    data: str
    factory: str
    api_version: int = TASK_API_VERSION
