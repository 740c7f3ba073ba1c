"""This module lists the backends that plugins contribute, and loads them.

`gpt2spec.entry_points` finds the plugins and records what is wrong with one.
"""

import importlib.util
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar

from gpt2spec.backend import API_VERSION, Backend, BackendInfo
from gpt2spec.entry_points import Kind, Listing, Plugin, check_factory, imported, load_plugin
from gpt2spec.errors import BackendError, PluginError, nearest
from gpt2spec.hookspecs import PROJECT
from gpt2spec.sharding import StoredTensor

CHANGES = (
    "upgrade the plugin, or change it as 'From version 1 to 2' in docs/write-a-backend.md says: processes and sharded "
    "weights are objects of the backend, None stands for what was an empty text, and api_version=2 says so"
)
"""The advice for the author of a plugin for version 1 of the contract."""


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


class Backends(Kind[BackendListing, Backend]):
    """Backends as a kind of contribution."""

    noun = "backend"
    hook = "gpt2spec_backend"
    contract = "backend contract"
    api_version = API_VERSION
    remedies: ClassVar[Mapping[int, str]] = {1: CHANGES}
    listing = BackendListing
    info = BackendInfo
    product = Backend

    def ask(self, plugin: Plugin) -> list[BackendListing]:
        """List the backend that a plugin describes."""
        answers = plugin.hooks.gpt2spec_backend()
        info = self.checked(answers[0] if answers else None)  # pluggy leaves None out
        # Only top-level packages are looked for, because finding a submodule would import its package.
        packages = [module.partition(".")[0] for module in info.requires]
        missing = tuple(package for package in packages if importlib.util.find_spec(package) is None)
        return [BackendListing(info.name, plugin, info, missing)]

    def checked(self, info: Any) -> BackendInfo:
        """Return `info`, or raise `PluginError` where this version cannot use it."""
        info = super().checked(info)
        if not isinstance(info.requires, tuple) or not all(isinstance(module, str) for module in info.requires):
            raise PluginError(f"requires is a tuple of module names, not {info.requires!r}")
        check_factory(info.factory)
        if info.open_sharded is not None:
            check_factory(info.open_sharded, "open_sharded")
        return info


BACKEND_PLUGINS = Backends()


class PluginRegistry:
    """The plugins of entry points, by default of all installed ones. They are looked up once, at first use."""

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        self._points = points

    @cached_property
    def plugins(self) -> tuple[Plugin, ...]:
        """All plugins by name, including broken ones."""
        points = entry_points(group=PROJECT) if self._points is None else self._points
        return tuple(load_plugin(point) for point in sorted(points, key=operator.attrgetter("name")))

    @cached_property
    def backends(self) -> tuple[BackendListing, ...]:
        """All backends by name, including broken ones."""
        return BACKEND_PLUGINS.listings(self.plugins)

    def find(self, name: str) -> BackendListing:
        """The backend called `name`: `BackendError` where there is none, `PluginError` where it is broken."""
        listing = BACKEND_PLUGINS.find(name, self.backends)
        if listing is None:
            known = [listing.name for listing in self.backends]
            raise BackendError(
                f"there is no backend {name!r}{nearest(name, known)}; installed: {', '.join(known) or 'none'}"
            )
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

        def make() -> Any:
            assert listing.info is not None, "find() raises for a broken backend"
            factory = imported(listing.info.factory)
            _check_options(name, factory, options)
            return factory(device=device, dtype=dtype, **options)

        return BACKEND_PLUGINS.make(f"{name!r} ({listing.plugin})", make, passed=(BackendError,))

    def open_sharded(self, name: str, folder: Path) -> Mapping[str, StoredTensor]:
        """The tensors whose shards the backend called `name` wrote to `folder`; see `BackendInfo.open_sharded`."""
        info = self.find(name).info
        if info is None or info.open_sharded is None:
            raise BackendError(f"backend {name!r} does not say how to read the parts that it wrote to {folder}")
        return imported(info.open_sharded)(folder)


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
