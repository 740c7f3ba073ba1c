"""This module finds plugins through entry points, and what they contribute of one kind, such as backends or tasks.

Each entry point has its own plugin manager, so that an error in one plugin is recorded beside its name, and the others
work. Listing imports the plugins' modules but calls no factory, so no framework is loaded.
"""

import importlib
import operator
import reprlib
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from typing import Any, ClassVar, Generic, TypeVar

from gpt2spec.errors import GPT2SpecError, PluginError
from gpt2spec.hookspecs import plugin_manager


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


Product = TypeVar("Product")


class Kind(Generic[AnyListing, Product]):
    """A kind of contribution, such as backends: a subclass names it and says how a plugin is asked for it.

    Attributes:
        noun: the name of the kind in messages.
        hook: the hook by which a plugin describes its contributions.
        contract: the name of the contract in messages.
        api_version: the version of the contract that this gpt2spec has.
        remedies: the advice for the author of a plugin for another version, by version.
        listing: the class of listings.
        info: the class of descriptions.
        product: the class of what factories make.
    """

    noun: ClassVar[str]
    hook: ClassVar[str]
    contract: ClassVar[str]
    api_version: ClassVar[int]
    remedies: ClassVar[Mapping[int, str]] = {}
    listing: type[AnyListing]
    info: ClassVar[Any]
    product: type[Product]

    def ask(self, plugin: Plugin) -> list[AnyListing]:
        """List the contributions of a plugin. Any exception is the fault of the plugin."""
        raise NotImplementedError

    def listings(self, plugins: Iterable[Plugin], own: Iterable[AnyListing] = ()) -> tuple[AnyListing, ...]:
        """List our `own` in their order, then those of plugins by name, including broken ones.

        A plugin that could not be loaded may have contributed one, so it counts.
        """
        bringing = [plugin for plugin in plugins if plugin.fault or getattr(plugin.hooks, self.hook).get_hookimpls()]
        brought = [listing for plugin in bringing for listing in self._listed(plugin)]
        found = [*own, *sorted(brought, key=operator.attrgetter("name"))]
        return tuple(mark_duplicate(listing, found) for listing in found)

    def checked(self, info: Any) -> Any:
        """Return `info`, or raise `PluginError` where this version cannot use it."""
        if not isinstance(info, self.info):
            raise PluginError(f"{self.hook}() returned {reprlib.repr(info)}, not a {_place_of(self.info)}")
        if info.api_version != self.api_version:
            remedies = [remedy for version, remedy in self.remedies.items() if version == info.api_version]
            raise PluginError(
                f"it was written for version {info.api_version!r} of the {self.contract}, and this gpt2spec has "
                f"version {self.api_version}: {(*remedies, 'upgrade the older of the two')[0]}"
            )
        if not isinstance(info.name, str) or not info.name:
            raise PluginError(f"a {self.noun}'s name is a text, not {info.name!r}")
        return info

    def find(self, name: str, listings: Iterable[AnyListing]) -> AnyListing | None:
        """The listing of that name, one that works if there is one; None where there is none."""
        found = [listing for listing in listings if listing.name == name]
        return min(found, key=lambda listing: bool(listing.plugin.fault), default=None)

    def make(self, name: str, make: Callable[[], Any], passed: tuple[type[Exception], ...] = ()) -> Product:
        """Return what a factory makes.

        Args:
            name: its name in messages.
            make: imports and calls the factory.
            passed: exceptions that are mistakes of the user, and not of the factory.

        Raises:
            PluginError: where the factory fails, or makes something else.
        """
        try:
            made = make()
            if not isinstance(made, self.product):
                raise PluginError(f"its factory returned {reprlib.repr(made)}, not a {_place_of(self.product)}")
        except passed:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = "" if isinstance(error, GPT2SpecError) else f" ({frame.filename}:{frame.lineno})"
            raise PluginError(f"{self.noun} {name} failed: {_one_line(error)}{place}") from error
        return made

    def _listed(self, plugin: Plugin) -> list[AnyListing]:
        if not plugin.fault:
            try:
                return self.ask(plugin)
            except (Exception, SystemExit) as error:
                plugin = plugin.broken(error)
        return [self.listing(plugin.name, plugin)]


def load_plugin(point: EntryPoint) -> Plugin:
    """Import the module that an entry point names and check its hooks."""
    plugin = Plugin(point.name, *_distribution(point))
    manager = plugin_manager()
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
    except Exception:  # a half-removed distribution has no metadata; the exception depends on Python's version
        return unknown


def check_factory(factory: Any, field: str = "factory") -> None:
    """Raise `PluginError` unless `factory` has the form `package.module:callable`."""
    module, colon, function = str(factory).partition(":")
    if not colon or not all(word.isidentifier() for word in [*module.split("."), *function.split(".")]):
        raise PluginError(f"{field} is 'package.module:callable', not {factory!r}")


def mark_duplicate(listing: AnyListing, listings: Iterable[AnyListing]) -> AnyListing:
    """Return `listing`, marked as broken where another working plugin claims the same name."""
    plugins = [other.plugin for other in listings if other.name == listing.name and not other.plugin.fault]
    if listing.plugin.fault or len(plugins) == 1:
        return listing
    fault = f"the name is claimed by {' and by '.join(map(str, plugins))}: uninstall one"
    return replace(listing, plugin=replace(listing.plugin, fault=fault))


def imported(place: str) -> Callable[..., Any]:
    """Import `"package.module:callable"`, which imports the framework."""
    module, _, function = place.partition(":")
    found: Callable[..., Any] = operator.attrgetter(function)(importlib.import_module(module))
    return found


def _place_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _one_line(error: BaseException) -> str:
    """An exception in one line, with its class unless it is ours."""
    message = str(error) if isinstance(error, GPT2SpecError) else f"{type(error).__name__}: {error}"
    return " ".join(message.split())
