"""Anyone's `torch.nn.Module` as a subject: how to build it, and what its parameters are called.

The module runs on the CPU and in evaluation mode, so without dropout. Gradients are autograd's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from gpt2spec.config import GPT2Config
from gpt2spec.errors import ConfigError, nearest
from gpt2spec.parameters import HostParams, Weight, weight_table
from gpt2spec_conformance.cases.inputs import L2
from gpt2spec_conformance.subject import Subject

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Layout:
    """The way in which a module stores one weight of the specification.

    Attributes:
        names: the module's parameters that hold it; `{i}` stands for the number of the block. None at all means that
            the module does not have this weight: what is loaded is dropped, and what is read is zero.
        store: the weight as the specification has it -> the arrays of `names`.
        read: the arrays of `names` -> the weight. Gradients are read by it too, so it only rearranges and adds.
    """

    names: tuple[str, ...]
    store: Callable[[np.ndarray], Arrays]
    read: Callable[[Arrays], np.ndarray]

    def suffixed(self, suffix: str) -> Layout:
        """The layout for one weight of each module: `names` are modules, and `suffix` is ".weight" or ".bias"."""
        return replace(self, names=tuple(name + suffix for name in self.names))


def as_it_is(name: str) -> Layout:
    """A parameter in the specification's shape: projections are [in, out]."""
    return Layout((name,), lambda x: [x], lambda stored: stored[0])


def transposed(name: str) -> Layout:
    """A projection stored [out, in], as `nn.Linear` does. A vector is as it is."""
    return Layout((name,), lambda x: [x.T], lambda stored: stored[0].T)


def separate_qkv(query: str, key: str, value: str) -> Layout:
    """`c_attn` as three `nn.Linear` (or their biases), in the place of one."""
    return Layout(
        (query, key, value),
        lambda x: [part.T for part in np.split(x, 3, -1)],
        lambda stored: np.concatenate([part.T for part in stored], -1),
    )


def untied(embedding: str, head: str) -> Layout:
    """`wte.weight` of a module whose output head [V, D] is a parameter of its own.

    Both are loaded with the same values. The gradient is that of the embedding alone: what training does to it.
    """
    return Layout((embedding, head), lambda x: [x, x], lambda stored: stored[0])


ABSENT = Layout((), lambda x: [], lambda stored: np.zeros(0))
"""The module does not have this weight."""

Names = Mapping[str, str | Layout]
"""Weights of the specification ("h.{i}.attn.c_attn.weight"), or the modules of a weight and its bias
("h.{i}.attn.c_attn"), and where the module has them; a plain name means `as_it_is`."""


class TorchModuleSubject(Subject):
    """A PyTorch module as a subject for the levels inference and gradient, and its own initial weights."""

    frameworks: tuple[str, ...] = ("torch",)

    def __init__(
        self,
        build: Callable[[GPT2Config], nn.Module],
        names: Names,
        *,
        parts: Mapping[str, str] | None = None,
        forward: Callable[[Any, torch.Tensor], Any] | None = None,
        name: str = "torch module",
        dtype: str = "float32",
    ) -> None:
        """Build one small model to see that `names` fits it.

        Args:
            build: makes the module of a configuration, with its own initial weights.
            names: where the module has each weight of the specification.
            parts: the modules whose outputs [B, T, D] are the taps "attn", "mlp" and "residual" of block i, such as
                `{"attn": "blocks.{i}.attn", "mlp": "blocks.{i}.mlp", "residual": "blocks.{i}"}`.
            forward: (module, int64 tokens [B, T]) -> logits [B, T, V], a tuple that begins with them, or an object
                that has them as `.logits`. By default the module is called with the tokens.
            name: what reports call the subject.
            dtype: of its parameters, and what it computes in.

        Raises:
            ConfigError: `names` or `parts` do not fit the module.
        """
        self.name = name
        self.dtype = dtype
        self._build = build
        self._names = _checked(names)
        self._parts = dict(parts or {})
        self._forward = forward or (lambda module, tokens: module(tokens))
        self._modules: dict[GPT2Config, nn.Module] = {}
        module = self._module(L2)
        if self._parts:
            _tapped_modules(self._parts, module, L2)

    def supports(self, operation: str) -> bool:
        """A module has taps only where `parts` says what they are."""
        return super().supports(operation) and (operation != "taps" or bool(self._parts))

    def logits(self, config: GPT2Config, params: HostParams, tokens: np.ndarray) -> np.ndarray:  # noqa: D102
        module = self.loaded(config, params)
        with torch.no_grad():
            return to_numpy(self._logits(module, tokens))

    def taps(self, config: GPT2Config, params: HostParams, tokens: np.ndarray) -> dict[str, np.ndarray]:  # noqa: D102
        found: dict[str, np.ndarray] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                found[name] = to_numpy(_first(output))

            return hook

        module = self.loaded(config, params)
        hooks = [
            part.register_forward_hook(keep(name))
            for name, part in _tapped_modules(self._parts, module, config).items()
        ]
        try:
            with torch.no_grad():
                self._logits(module, tokens)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def loss(self, config: GPT2Config, params: HostParams, tokens: np.ndarray, targets: np.ndarray) -> float:
        """PyTorch's mean cross entropy of the logits of the module."""
        module = self.loaded(config, params)
        with torch.no_grad():
            return self._loss(module, tokens, targets).item()

    def loss_and_gradients(  # noqa: D102
        self, config: GPT2Config, params: HostParams, tokens: np.ndarray, targets: np.ndarray
    ) -> tuple[float, HostParams]:
        module = self.loaded(config, params)
        loss = self._loss(module, tokens, targets)
        parameters = dict(module.named_parameters(remove_duplicate=False))
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        return loss.item(), self._read(config, dict(zip(parameters, gradients, strict=True)))

    def accumulated_gradients(
        self,
        config: GPT2Config,
        params: HostParams,
        tokens: np.ndarray,
        targets: np.ndarray,
        sizes: Sequence[int],
    ) -> tuple[float, HostParams]:
        """Calls `backward` for each micro-batch's mean loss times its share, which adds up the gradients."""
        module = self.loaded(config, params)
        module.zero_grad()
        total, ends = 0.0, np.cumsum(sizes)
        for end, size in zip(ends, sizes, strict=True):
            loss = self._loss(module, tokens[end - size : end], targets[end - size : end]) * (size / len(tokens))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in module.named_parameters(remove_duplicate=False)
        }
        return total, self._read(config, gradients)

    def initial_parameters(self, config: GPT2Config, seed: int) -> HostParams:
        """The weights of a module built anew, PyTorch's generator seeded with `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self._build(config)
        return self._read(config, dict(module.named_parameters(remove_duplicate=False)))

    def loaded(self, config: GPT2Config, params: HostParams) -> Any:
        """The module of a configuration with `params` as its weights, in evaluation mode."""
        module = self._module(config)
        parameters = dict(module.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for weight in weight_table(config):
                layout = self._layout(weight)
                for name, array in zip(layout.names, layout.store(params[weight.name]), strict=True):
                    parameters[name].copy_(torch.from_numpy(np.ascontiguousarray(array)))
        return module

    def _module(self, config: GPT2Config) -> nn.Module:
        if config not in self._modules:
            module = self._build(config).to(getattr(torch, self.dtype)).eval()
            self._check(config, module)
            self._modules[config] = module
        return self._modules[config]

    def _logits(self, module: nn.Module, tokens: np.ndarray) -> torch.Tensor:
        output = self._forward(module, to_torch(tokens))
        return output.logits if hasattr(output, "logits") else _first(output)

    def _loss(self, module: nn.Module, tokens: np.ndarray, targets: np.ndarray) -> torch.Tensor:
        logits = self._logits(module, tokens)
        return nn.functional.cross_entropy(logits.flatten(0, -2), to_torch(targets).flatten())

    def _read(self, config: GPT2Config, tensors: Mapping[str, torch.Tensor]) -> HostParams:
        """Weights or gradients by the names of the specification, from those by the names of the module."""

        def read(weight: Weight) -> np.ndarray:
            layout = self._layout(weight)
            stored = [to_numpy(tensors[name]) for name in layout.names]
            return layout.read(stored) if stored else np.zeros(weight.shape, np.float32)

        return {weight.name: read(weight) for weight in weight_table(config)}

    def _layout(self, weight: Weight) -> Layout:
        """The layout of a weight, with the block's number filled in."""
        pattern, block = _pattern(weight.name)
        module, _, suffix = pattern.rpartition(".")
        if pattern in self._names:
            layout = self._names[pattern]
        elif module in self._names:
            layout = self._names[module].suffixed(f".{suffix}")
        else:
            raise ConfigError(f"names does not say where the module has {pattern}; ABSENT means that it has none")
        return replace(layout, names=tuple(name.replace("{i}", block) for name in layout.names))

    def _check(self, config: GPT2Config, module: nn.Module) -> None:
        """Raise `ConfigError` unless `names` covers the module's parameters, in their shapes."""
        parameters = dict(module.named_parameters(remove_duplicate=False))
        mapped = set()
        for weight in weight_table(config):
            layout = self._layout(weight)
            for name, array in zip(layout.names, layout.store(np.zeros(weight.shape, np.float32)), strict=True):
                if name not in parameters:
                    hint = nearest(name, parameters)
                    raise ConfigError(f"names has {weight.name} in {name}: the module has no such parameter{hint}")
                _check_shape(weight, name, tuple(parameters[name].shape), array.shape)
                mapped.add(id(parameters[name]))
        for name, parameter in parameters.items():
            if id(parameter) not in mapped:
                raise ConfigError(
                    f"the module has a parameter {name} {list(parameter.shape)} that names does not mention; "
                    'an output head of its own belongs to wte.weight: untied("EMBEDDING", "HEAD")'
                )


def to_torch(tokens: np.ndarray) -> torch.Tensor:
    """Converts token ids to an int64 tensor."""
    return torch.from_numpy(np.array(tokens, np.int64))


def to_numpy(x: torch.Tensor) -> np.ndarray:
    """Copies a tensor to an array."""
    return np.array(x.detach().numpy())


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _pattern(name: str) -> tuple[str, str]:
    """Splits "h.3.ln_1.bias" into ("h.{i}.ln_1.bias", "3"), and "wte.weight" into ("wte.weight", "")."""
    found = re.fullmatch(r"h\.(\d+)\.(.*)", name)
    return (f"h.{{i}}.{found[2]}", found[1]) if found else (name, "")


def _checked(names: Names) -> dict[str, Layout]:
    """`names` with a layout for each plain name. Raises `ConfigError` for what the specification does not have."""
    weights = [_pattern(weight.name)[0] for weight in weight_table(L2)]
    known = list(dict.fromkeys([*weights, *(weight.rpartition(".")[0] for weight in weights)]))
    for name in names:
        if name not in known:
            raise ConfigError(f"names has {name!r}: GPT-2 has no such weight or module{nearest(name, known)}")
    return {name: as_it_is(layout) if isinstance(layout, str) else layout for name, layout in names.items()}


def _check_shape(weight: Weight, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        hint = "; is it transposed?" if found == expected[::-1] else ""
        raise ConfigError(
            f"the module's {name} has shape {list(found)}; {list(expected)} is expected for {weight.name}{hint}"
        )


def _tapped_modules(parts: Mapping[str, str], module: nn.Module, config: GPT2Config) -> dict[str, nn.Module]:
    """The modules whose outputs are the taps, by the names of the taps. Raises `ConfigError` where there are none."""
    if set(parts) != {"attn", "mlp", "residual"}:
        raise ConfigError(f"parts has {', '.join(parts)}; it needs attn, mlp and residual")
    modules = dict(module.named_modules())
    found = {}
    for block in range(config.n_layer):
        for part, pattern in parts.items():
            name = pattern.replace("{i}", str(block))
            if name not in modules:
                raise ConfigError(f"parts has {part} in {name}: the module has no such part{nearest(name, modules)}")
            found[f"h.{block}.{part}"] = modules[name]
    return found
