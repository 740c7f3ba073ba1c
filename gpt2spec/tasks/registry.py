"""This module finds tasks: those that come with gpt2spec and those of plugins.

Listing tasks imports the plugins' modules but calls no factory. A broken task is listed with what is wrong with it, and
the others work.
"""

import importlib
import operator
import reprlib
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from gpt2spec.errors import ConfigError, GPT2SpecError, PluginError, nearest
from gpt2spec.plugins import Listing, Plugin, PluginRegistry, check_factory, default_registry, mark_duplicate
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


def task_listings(registry: PluginRegistry = default_registry) -> tuple[TaskListing, ...]:
    """Our own tasks in their order, then those of plugins by name. Broken tasks are listed, too."""
    ours = Plugin("gpt2spec", "gpt2spec", version("gpt2spec"))
    own = [TaskListing(info.name, ours, info) for info in TASKS]
    plugins = [plugin for plugin in registry.plugins if plugin.fault or plugin.hooks.gpt2spec_tasks.get_hookimpls()]
    others = [listing for plugin in plugins for listing in _list_tasks(plugin)]
    listings = [*own, *sorted(others, key=operator.attrgetter("name"))]
    return tuple(mark_duplicate(listing, listings) for listing in listings)


def find_task(name: str, registry: PluginRegistry = default_registry) -> TaskInfo:
    """The description of the task `name`: `ConfigError` where there is none, `PluginError` where it is broken."""
    listings = task_listings(registry)
    found = [listing for listing in listings if listing.name == name]
    if not found:
        known = [listing.name for listing in listings if not listing.plugin.fault]
        raise ConfigError(f"there is no task {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    listing = min(found, key=lambda listing: bool(listing.plugin.fault))  # one that works, if there is one
    if listing.plugin.fault or listing.info is None:
        raise PluginError(f"task {name!r} ({listing.plugin}) is broken: {listing.plugin.fault}")
    return listing.info


def load_task(name: str, registry: PluginRegistry = default_registry) -> Task:
    """Load the task called `name`. Errors are those of `find_task`, and `PluginError` where its factory fails."""
    info = find_task(name, registry)
    module, _, function = info.factory.partition(":")
    try:
        task = operator.attrgetter(function)(importlib.import_module(module))()
        if not isinstance(task, Task):
            raise PluginError(f"its factory returned {reprlib.repr(task)}, not a gpt2spec.tasks.task.Task")
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = "" if isinstance(error, GPT2SpecError) else f" ({frame.filename}:{frame.lineno})"
        words = str(error) if isinstance(error, GPT2SpecError) else f"{type(error).__name__}: {error}"
        raise PluginError(f"task {name!r} failed: {' '.join(words.split())}{place}") from error
    return task


def _list_tasks(plugin: Plugin) -> list[TaskListing]:
    """Ask a plugin for its tasks and check the answer."""
    if plugin.fault:
        return [TaskListing(plugin.name, plugin)]
    try:
        (answer,) = plugin.hooks.gpt2spec_tasks() or [None]
        if not isinstance(answer, Iterable) or isinstance(answer, str):
            raise PluginError(f"gpt2spec_tasks() returned {reprlib.repr(answer)}, not a list of TaskInfo")
        infos = [_check_info(info) for info in answer]
    except (Exception, SystemExit) as error:
        return [TaskListing(plugin.name, plugin.broken(error))]
    return [TaskListing(info.name, plugin, info) for info in infos]


def _check_info(info: Any) -> TaskInfo:
    """Return `info`, or raise `PluginError` where this version cannot use it."""
    if not isinstance(info, TaskInfo):
        raise PluginError(f"gpt2spec_tasks() returned {reprlib.repr(info)}, not a gpt2spec.tasks.info.TaskInfo")
    if info.api_version != TASK_API_VERSION:
        raise PluginError(
            f"it was written for version {info.api_version!r} of the tasks' contract, and this gpt2spec has version "
            f"{TASK_API_VERSION}: upgrade the older of the two"
        )
    if not isinstance(info.name, str) or not info.name:
        raise PluginError(f"a task's name is a text, not {info.name!r}")
    check_factory(info.factory)
    return info
