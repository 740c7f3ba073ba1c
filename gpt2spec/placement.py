"""Weights on a device: put there from the host, or there already."""

from typing import NamedTuple

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.parameters import HostParams, check_parameters
from gpt2spec.tree import Tree


class OnDevice(NamedTuple):
    """Parameters that are on a backend's device, as its `whole_params` gives them."""

    params: Tree


Weights = HostParams | OnDevice
"""Those of the host are as `initial_parameters` returns them."""


def on_device(backend: Backend, config: GPT2Config, weights: Weights) -> Tree:
    """`weights` on the backend's device; `InputError` for those of the host that do not fit."""
    if isinstance(weights, OnDevice):
        return weights.params
    weights = check_parameters(config, weights)  # before anything is asked of the backend
    return backend.load_params(weights)
