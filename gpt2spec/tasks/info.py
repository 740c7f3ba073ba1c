"""This module describes tasks that are not loaded. It imports nothing."""

from dataclasses import dataclass

TASK_API_VERSION = 1
"""The version of the contract in `gpt2spec.tasks.task`. A plugin made for another version is refused by name."""


@dataclass(frozen=True)
class TaskInfo:
    """A description of a task, as the hook `gpt2spec_tasks` returns them.

    Attributes:
        name: the name for `gpt2spec eval`.
        summary: one line for `gpt2spec eval --list`.
        data: which data it takes, and where to get it.
        factory: `"package.module:callable"`, imported when the task is asked for; called without arguments, it
            returns a `gpt2spec.tasks.task.Task`.
        api_version: the version of the contract the task was written for.
    """

    name: str
    summary: str
    data: str
    factory: str
    api_version: int = TASK_API_VERSION
