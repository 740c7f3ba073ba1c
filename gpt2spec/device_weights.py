"""Weights for a computation, which are either on the host or already on the device."""

from typing import NamedTuple

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.parameters import HostParams, check_parameters
from gpt2spec.tree import Tree


class OnDevice(NamedTuple):
    """Parameters that are already on the backend's device, whole."""

    params: Tree


Weights = HostParams | OnDevice
"""Weights on the host have the form that `initial_parameters` returns."""


def on_device(backend: Backend, config: GPT2Config, weights: Weights) -> Tree:
    """Put `weights` on the backend's device, if they are not there yet; `InputError` for weights that do not fit."""
    if isinstance(weights, OnDevice):
        return weights.params
    weights = check_parameters(config, weights)  # before anything is asked of the backend
    return backend.load_params(weights)
