"""The hooks of gpt2spec: what a plugin may contribute.

A plugin is a module with functions of these names and arguments, marked `@hookimpl`, that an entry point of
the group `gpt2spec` names:

    [project.entry-points.gpt2spec]
    mychip = "gpt2spec_mychip.plugin"

The module is imported whenever plugins are listed. It imports no framework: a factory does that, when asked.
"""

from collections.abc import Sequence

import pluggy

from gpt2spec.backend import BackendInfo
from gpt2spec.tasks.info import TaskInfo

PROJECT = "gpt2spec"
"""The entry-point group, and the name by which pluggy tells our markers from those of others."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def gpt2spec_backend() -> BackendInfo:
    """A backend's name card. A distribution with several backends has an entry point for each."""
    raise NotImplementedError("a plugin implements this")


@hookspec
def gpt2spec_tasks() -> Sequence[TaskInfo]:
    """Name cards of tasks that `gpt2spec eval` is to know; see `gpt2spec.tasks.task` for what a task is."""
    raise NotImplementedError("a plugin implements this")
