"""A mutant makes a right backend wrong in one way.

A mutant replaces functions: operations of the backend, functions of the core, transforms, or the subject's own
methods. A replacement is called as `replacement(original, *arguments)`, `original` being what it replaces (for
methods already bound), so that it may call it, and so that mutants compose: the last one is outermost.
"""

from __future__ import annotations

import contextlib
import functools
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from unittest import mock

from gpt2spec.backend import Backend
from gpt2spec_conformance.subject import OPERATIONS, BackendSubject

Replacements = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True, eq=False)
class Mutant:
    """One classic mistake; equal only to itself.

    Attributes:
        name: such as "gelu-erf".
        summary: what the mistaken implementation does.
        spec: what the specification says, and where.
        killed_by: id of the case that must fail, by an assertion.
        ops: replacements of methods of `TensorOps`; called `replacement(original, ops, *arguments)`.
        core: replacements of functions of the core, by the "module.name" of their definition, and of methods of its
            classes, by "module.Class.name"; those are called `replacement(original, self, *arguments)`. See
            `mutated_core` for whom they reach.
        backend: replacements of methods of `Backend`; called `replacement(original, backend, *arguments)`.
        subject: replacements of methods of `Subject`; called `replacement(original, *arguments)`.
        right: this is no mistake: every case must pass.
        decoding_weights: what the mistaken backend says that it rounds weights to in decoding; None where it says
            what the right one does.
    """

    name: str
    summary: str
    spec: str
    killed_by: str = ""
    ops: Replacements = field(default_factory=dict)
    core: Replacements = field(default_factory=dict)
    backend: Replacements = field(default_factory=dict)
    subject: Replacements = field(default_factory=dict)
    right: bool = False
    decoding_weights: str | None = None


class MutatedSubject(BackendSubject):
    """A backend with one mistake or several. The backend must be one that nothing else uses."""

    def __init__(self, backend: Backend, mutants: Sequence[Mutant]) -> None:
        super().__init__(backend, f"{backend.name} with {' and '.join(mutant.name for mutant in mutants)}")
        self.mutants = tuple(mutants)
        self.decoding_weights = next(filter(None, (m.decoding_weights for m in mutants)), self.decoding_weights)
        for mutant in mutants:
            for owner, replacements in ((backend.ops, mutant.ops), (backend, mutant.backend)):
                for name, replacement in replacements.items():
                    setattr(owner, name, functools.partial(replacement, getattr(owner, name), owner))
        for name in OPERATIONS:
            setattr(self, name, self._within(getattr(self, name)))
        for mutant in mutants:
            for name, replacement in mutant.subject.items():
                setattr(self, name, functools.partial(replacement, getattr(self, name)))

    def context(self) -> contextlib.AbstractContextManager[None]:
        """The context in which the core has the mistakes."""
        return mutated_core(self.mutants)

    def _within(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def run(*args: Any) -> Any:
            with self.context():
                return method(*args)

        return run


@contextlib.contextmanager
def mutated_core(mutants: Sequence[Mutant]) -> Iterator[None]:
    """Replaces functions of the core for as long as the context is entered.

    A function is replaced in every module of gpt2spec, its backends and this suite that has it as an attribute, under
    whatever name, and a method in its class. So whoever looks it up meanwhile finds the faulty one, modules that are
    imported meanwhile included; afterwards they too have the right one. What took hold of the function itself keeps
    the right one: a `functools.partial`, a default argument, a container, a closure, a program that was compiled
    before.
    """
    with contextlib.ExitStack() as stack:
        for mutant in mutants:
            for path, replacement in mutant.core.items():
                stack.enter_context(_replaced(path, replacement))
        yield


@contextlib.contextmanager
def _replaced(path: str, replacement: Callable[..., Any]) -> Iterator[None]:
    owner_path, _, name = path.rpartition(".")
    owner = pkgutil.resolve_name(owner_path)
    original = getattr(owner, name)
    if isinstance(owner, type):
        with mock.patch.object(owner, name, _method(replacement, original)):
            yield
        return
    faulty = functools.partial(replacement, original)
    modules = _modules_loaded()
    holders = _holders_of(path, modules)
    for module, attribute in holders:
        setattr(module, attribute, faulty)
    try:
        yield
    finally:
        if _modules_loaded() != modules:
            holders = tuple(_holding(faulty))
        for module, attribute in holders:
            setattr(module, attribute, original)


def _modules_loaded() -> tuple[int, str]:
    """A key that changes when a module is imported and takes no time to compute."""
    return len(sys.modules), next(reversed(sys.modules))


@functools.lru_cache
def _holders_of(path: str, modules: tuple[int, str]) -> tuple[tuple[ModuleType, str], ...]:
    """The holders of the function defined at `path`, searched once for the loaded modules."""
    return tuple(_holding(pkgutil.resolve_name(path)))


def _holding(function: Any) -> Iterator[tuple[ModuleType, str]]:
    """Yields each module of ours that has the function as an attribute, with the attribute's name."""
    for name, module in tuple(sys.modules.items()):
        if name.startswith("gpt2spec"):
            yield from ((module, attribute) for attribute, value in vars(module).items() if value is function)


def _method(replacement: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """A function, which classes bind, unlike `functools.partial`."""
    return lambda self, *args: replacement(original, self, *args)
