"""The hooks of gpt2spec say what a plugin may contribute.

A plugin is a module that an entry point of the group `gpt2spec` names. Its functions have the names and arguments of
these hooks and are marked `@hookimpl`:

    [project.entry-points.gpt2spec]
    mychip = "gpt2spec_mychip.plugin"

The module is imported whenever plugins are listed, so it imports no framework; a factory does that.
"""

import sys
from collections.abc import Sequence

import pluggy

from gpt2spec.backend import BackendInfo
from gpt2spec.tasks.info import TaskInfo

PROJECT = "gpt2spec"
"""The entry-point group, and the name by which pluggy distinguishes our markers from those of others."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


def plugin_manager() -> pluggy.PluginManager:
    """A manager for plugins with these hooks."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(sys.modules[__name__])
    return manager


@hookspec
def gpt2spec_backend() -> BackendInfo:
    """Describe a backend. A distribution with several backends has an entry point for each."""
    raise NotImplementedError("a plugin implements this")


@hookspec
def gpt2spec_tasks() -> Sequence[TaskInfo]:
    """Describe tasks for `gpt2spec eval`; `gpt2spec.tasks.task` says what a task is."""
    raise NotImplementedError("a plugin implements this")
