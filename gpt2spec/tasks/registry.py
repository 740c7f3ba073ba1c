"""This module finds tasks: those that come with gpt2spec and those of plugins.

Listing tasks imports the plugins' modules but calls no factory. A broken task is listed with what is wrong with it, and
the others work.
"""

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from gpt2spec.entry_points import Kind, Listing, Plugin, check_factory, imported
from gpt2spec.errors import ConfigError, PluginError, nearest
from gpt2spec.plugins import PluginRegistry, default_registry
from gpt2spec.tasks.catalogue import TASKS
from gpt2spec.tasks.info import TASK_API_VERSION, TaskInfo
from gpt2spec.tasks.task import Task


@dataclass(frozen=True)
class TaskListing(Listing):
    """What is known about a task that is not loaded.

    Attributes:
        info: the description of the task, or None where the plugin gives no valid one.
    """

    info: TaskInfo | None = None


class Tasks(Kind[TaskListing, Task]):
    """Tasks as a kind of contribution."""

    noun = "task"
    hook = "gpt2spec_tasks"
    contract = "tasks' contract"
    api_version = TASK_API_VERSION
    listing = TaskListing
    info = TaskInfo
    product = Task

    def ask(self, plugin: Plugin) -> list[TaskListing]:
        """List the tasks that a plugin describes."""
        (answer,) = plugin.hooks.gpt2spec_tasks() or [None]
        if not isinstance(answer, Iterable) or isinstance(answer, str):
            raise PluginError(f"gpt2spec_tasks() returned {reprlib.repr(answer)}, not a list of TaskInfo")
        infos = [self.checked(info) for info in answer]
        return [TaskListing(info.name, plugin, info) for info in infos]

    def checked(self, info: Any) -> TaskInfo:
        """Return `info`, or raise `PluginError` where this version cannot use it."""
        info = super().checked(info)
        check_factory(info.factory)
        return info


TASK_PLUGINS = Tasks()


def task_listings(registry: PluginRegistry = default_registry) -> tuple[TaskListing, ...]:
    """Our own tasks in their order, then those of plugins by name. Broken tasks are listed, too."""
    ours = Plugin("gpt2spec", "gpt2spec", version("gpt2spec"))
    return TASK_PLUGINS.listings(registry.plugins, [TaskListing(info.name, ours, info) for info in TASKS])


def find_task(name: str, registry: PluginRegistry = default_registry) -> TaskInfo:
    """The description of the task `name`: `ConfigError` where there is none, `PluginError` where it is broken."""
    listings = task_listings(registry)
    listing = TASK_PLUGINS.find(name, listings)
    if listing is None:
        known = [listing.name for listing in listings if not listing.plugin.fault]
        raise ConfigError(f"there is no task {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    if listing.plugin.fault or listing.info is None:
        raise PluginError(f"task {name!r} ({listing.plugin}) is broken: {listing.plugin.fault}")
    return listing.info


def load_task(name: str, registry: PluginRegistry = default_registry) -> Task:
    """Load the task called `name`. Errors are those of `find_task`, and `PluginError` where its factory fails."""
    info = find_task(name, registry)
    return TASK_PLUGINS.make(repr(name), lambda: imported(info.factory)())
