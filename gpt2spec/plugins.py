"""This module finds plugins, checks them, and loads backends from them.

Each entry point has its own plugin manager, so that an error in one plugin is recorded beside its name, and the others
work. Listing imports the plugins' modules but calls no factory, so no framework is loaded.
"""

import importlib
import importlib.util
import inspect
import operator
import reprlib
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

import pluggy

from gpt2spec import hookspecs
from gpt2spec.backend import API_VERSION, Backend, BackendInfo
from gpt2spec.errors import BackendError, GPT2SpecError, PluginError, nearest
from gpt2spec.sharding import StoredTensor

CHANGES = (
    "upgrade the plugin, or change it as 'From version 1 to 2' in docs/write-a-backend.md says: processes and sharded "
    "weights are objects of the backend, None stands for what was an empty text, and api_version=2 says so"
)
"""The advice for the author of a plugin for version 1 of the contract."""


@dataclass(frozen=True)
class Plugin:
    """An entry point of the group `gpt2spec`, loaded or broken.

    Attributes:
        name: the entry point's name.
        distribution: the name of the distribution that it came with.
        version: the version of that distribution.
        hooks: calls the hooks of only this plugin; None if it could not be loaded.
        fault: why it cannot be used, in one line; otherwise empty.
        traceback: the traceback of the fault; otherwise empty.
    """

    name: str
    distribution: str
    version: str
    hooks: Any = None
    fault: str = ""
    traceback: str = ""

    def broken(self, error: BaseException) -> "Plugin":
        """This plugin, with `error` as its fault."""
        return replace(self, fault=_one_line(error), traceback="".join(traceback.format_exception(error)))

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version}".rstrip()


@dataclass(frozen=True)
class Listing:
    """What is known about a contribution of a plugin without loading it.

    Attributes:
        name: its name, or that of a plugin that is too broken to give one.
        plugin: the plugin, with its fault if it has one.
    """

    name: str
    plugin: Plugin


AnyListing = TypeVar("AnyListing", bound=Listing)


@dataclass(frozen=True)
class BackendListing(Listing):
    """What is known about a backend without importing its framework.

    Attributes:
        info: the description of the backend, or None where the plugin gives no valid one.
        missing: the required modules that are not installed.
    """

    info: BackendInfo | None = None
    missing: tuple[str, ...] = ()

    @property
    def install(self) -> str:
        """The command that installs what is missing; empty where the plugin does not say."""
        if self.info is None or not self.info.extra:
            return ""
        ours = self.plugin.distribution == "gpt2spec"
        return f'pip install "gpt2spec[{self.info.extra}]"' if ours else f'pip install "{self.info.extra}"'

    @property
    def status(self) -> str:
        """`ready`, or the reason why not, in one line."""
        if self.plugin.fault:
            return f"broken: {self.plugin.fault}"
        if self.missing:
            return f"missing {', '.join(self.missing)}" + (f": {self.install}" if self.install else "")
        return "ready"


class PluginRegistry:
    """The plugins of entry points, by default of all installed ones. They are looked up once, at first use."""

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        self._points = points

    @cached_property
    def plugins(self) -> tuple[Plugin, ...]:
        """All plugins by name, including broken ones."""
        points = entry_points(group=hookspecs.PROJECT) if self._points is None else self._points
        return tuple(_load_plugin(point) for point in sorted(points, key=operator.attrgetter("name")))

    @cached_property
    def backends(self) -> tuple[BackendListing, ...]:
        """All backends by name, including broken ones. A plugin that could not be loaded may be one, so it counts."""
        plugins = [plugin for plugin in self.plugins if plugin.fault or plugin.hooks.gpt2spec_backend.get_hookimpls()]
        listings = sorted(map(_list_backend, plugins), key=operator.attrgetter("name"))
        return tuple(mark_duplicate(listing, listings) for listing in listings)

    def find(self, name: str) -> BackendListing:
        """The backend called `name`: `BackendError` where there is none, `PluginError` where it is broken."""
        found = [listing for listing in self.backends if listing.name == name]
        if not found:
            known = [listing.name for listing in self.backends]
            raise BackendError(
                f"there is no backend {name!r}{nearest(name, known)}; installed: {', '.join(known) or 'none'}"
            )
        listing = min(found, key=lambda listing: bool(listing.plugin.fault))  # one that works, if there is one
        if listing.plugin.fault:
            hint = "; 'gpt2spec backends --verbose' shows the traceback" if listing.plugin.traceback else ""
            raise PluginError(f"backend {name!r} ({listing.plugin}) is broken: {listing.plugin.fault}{hint}")
        return listing

    def load(self, name: str, /, device: str | None = None, dtype: str = "float32", **options: Any) -> Backend:
        """Make the backend called `name`; see `load_backend`."""
        listing = self.find(name)
        if listing.missing:
            how = f": {listing.install}" if listing.install else ""
            raise BackendError(f"backend {name!r} needs {', '.join(listing.missing)}, which is not installed{how}")
        try:
            assert listing.info is not None, "find() raises for a broken backend"
            factory = _imported(listing.info.factory)
            _check_options(name, factory, options)
            backend = factory(device=device, dtype=dtype, **options)
            if not isinstance(backend, Backend):
                raise PluginError(f"its factory returned {reprlib.repr(backend)}, not a gpt2spec.backend.Backend")
        except BackendError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = "" if isinstance(error, GPT2SpecError) else f" ({frame.filename}:{frame.lineno})"
            raise PluginError(f"backend {name!r} ({listing.plugin}) failed: {_one_line(error)}{place}") from error
        return backend

    def open_sharded(self, name: str, folder: Path) -> Mapping[str, StoredTensor]:
        """The tensors whose shards the backend called `name` wrote to `folder`; see `BackendInfo.open_sharded`."""
        info = self.find(name).info
        if info is None or info.open_sharded is None:
            raise BackendError(f"backend {name!r} does not say how to read the parts that it wrote to {folder}")
        return _imported(info.open_sharded)(folder)


default_registry = PluginRegistry()
"""The installed plugins."""


def load_backend(name: str, /, device: str | None = None, dtype: str = "float32", **options: Any) -> Backend:
    """Load the backend called `name`, which computes on one device in one dtype.

    Args:
        name: the name that `gpt2spec backends` lists.
        device: the framework's name of the device; None for its default.
        dtype: the compute dtype: "float32", or another that the backend has.
        options: further arguments of the backend's factory.

    Raises:
        BackendError: where there is no such backend, device, dtype or option, or the framework is not installed.
        PluginError: where the plugin is broken, or two plugins claim the name.
    """
    return default_registry.load(name, device, dtype, **options)


def open_sharded(name: str, folder: Path) -> Mapping[str, StoredTensor]:
    """The tensors whose shards the backend called `name` wrote to `folder`, whole when they are read.

    Raises:
        BackendError: where there is no such backend, or the package that it needs is not installed.
        CheckpointError: where the files cannot be read.
    """
    return default_registry.open_sharded(name, folder)


def backend_listings() -> tuple[BackendListing, ...]:
    """All installed backends by name, including broken ones. No framework is imported."""
    return default_registry.backends


def _load_plugin(point: EntryPoint) -> Plugin:
    """Import the module that an entry point names and check its hooks."""
    plugin = Plugin(point.name, *_distribution(point))
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        module = point.load()
        manager.register(module, point.name)
        manager.check_pending()
        if not manager.get_hookcallers(module):
            raise PluginError(f"{point.value} has no hook: is gpt2spec.hookspecs.hookimpl missing?")
    except (Exception, SystemExit) as error:
        return plugin.broken(error)
    return replace(plugin, hooks=manager.hook)


def _distribution(point: EntryPoint) -> tuple[str, str]:
    """The name and version of the distribution of an entry point."""
    unknown = ("an unknown distribution", "")
    try:
        metadata: Any = point.dist.metadata if point.dist else {}
        return (metadata["Name"], metadata["Version"] or "") if metadata.get("Name") else unknown
    except (
        Exception
    ):  # a half-removed distribution has no metadata; which exception says so depends on Python's version
        return unknown


def _list_backend(plugin: Plugin) -> BackendListing:
    """Ask a plugin for its backend and check the answer."""
    if plugin.fault:
        return BackendListing(plugin.name, plugin)
    try:
        answers = plugin.hooks.gpt2spec_backend()
        info = _check_info(answers[0] if answers else None)  # pluggy leaves None out
        # Only top-level packages are looked for, because finding a submodule would import its package.
        packages = [module.partition(".")[0] for module in info.requires]
        missing = tuple(package for package in packages if importlib.util.find_spec(package) is None)
    except (Exception, SystemExit) as error:
        return BackendListing(plugin.name, plugin.broken(error))
    return BackendListing(info.name, plugin, info, missing)


def _check_info(info: Any) -> BackendInfo:
    """Return `info`, or raise `PluginError` where this version cannot use it."""
    if not isinstance(info, BackendInfo):
        raise PluginError(f"gpt2spec_backend() returned {reprlib.repr(info)}, not a gpt2spec.backend.BackendInfo")
    if info.api_version != API_VERSION:
        todo = CHANGES if info.api_version == 1 else "upgrade the older of the two"
        raise PluginError(
            f"it was written for version {info.api_version!r} of the backend contract, and this gpt2spec has "
            f"version {API_VERSION}: {todo}"
        )
    if not isinstance(info.name, str) or not info.name:
        raise PluginError(f"a backend's name is a text, not {info.name!r}")
    if not isinstance(info.requires, tuple) or not all(isinstance(module, str) for module in info.requires):
        raise PluginError(f"requires is a tuple of module names, not {info.requires!r}")
    check_factory(info.factory)
    if info.open_sharded is not None:
        check_factory(info.open_sharded, "open_sharded")
    return info


def check_factory(factory: Any, field: str = "factory") -> None:
    """Raise `PluginError` unless `factory` has the form `package.module:callable`."""
    module, colon, function = str(factory).partition(":")
    if not colon or not all(word.isidentifier() for word in [*module.split("."), *function.split(".")]):
        raise PluginError(f"{field} is 'package.module:callable', not {factory!r}")


def mark_duplicate(listing: AnyListing, listings: list[AnyListing]) -> AnyListing:
    """Return `listing`, marked as broken where another working plugin claims the same name."""
    plugins = [other.plugin for other in listings if other.name == listing.name and not other.plugin.fault]
    if listing.plugin.fault or len(plugins) == 1:
        return listing
    fault = f"the name is claimed by {' and by '.join(map(str, plugins))}: uninstall one"
    return replace(listing, plugin=replace(listing.plugin, fault=fault))


def _imported(place: str) -> Callable[..., Any]:
    """Import `"package.module:callable"`, which imports the framework."""
    module, _, function = place.partition(":")
    found: Callable[..., Any] = operator.attrgetter(function)(importlib.import_module(module))
    return found


def _check_options(name: str, factory: Callable[..., Any], options: dict[str, Any]) -> None:
    """Raise `BackendError` where a factory does not take these options, or needs others."""
    signature = inspect.signature(factory)
    known = [option for option in signature.parameters if option not in ("device", "dtype")]
    if "parallel" in options and "parallel" not in known:
        raise BackendError(f"backend {name!r} runs on one device: it does not support --parallel {options['parallel']}")
    try:
        signature.bind(device=None, dtype="", **options)
    except TypeError as error:
        hint = "".join(nearest(option, known) for option in options if option not in known)
        takes = ", ".join(known) or "none"
        raise BackendError(f"the options of backend {name!r} are wrong: {error}{hint}; it takes {takes}") from None


def _one_line(error: BaseException) -> str:
    """An exception in one line, with its class unless it is ours."""
    message = " ".join(str(error).split())
    return message if isinstance(error, GPT2SpecError) else f"{type(error).__name__}: {message}"
