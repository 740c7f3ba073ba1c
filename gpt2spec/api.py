"""The functions for everyday use take and return NumPy arrays, and compute on any backend.

Parameters and gradients are flat dicts with the Hugging Face names (see `gpt2spec.parameters`). Token ids are checked
here, on the host, because frameworks clamp or ignore ids that are out of range.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding.generator import Generator, generate, stream
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.decoding.sequence import Choice, Generation, Piece
from gpt2spec.errors import InputError
from gpt2spec.loss import language_model_loss
from gpt2spec.model import forward
from gpt2spec.ops import Tensor
from gpt2spec.parameters import HostParams, check_parameters
from gpt2spec.tree import Tree


def logits(backend: Backend, config: GPT2Config, params: HostParams, tokens: ArrayLike) -> np.ndarray:
    """Compute the logits of the next token at every position, without dropout.

    Args:
        backend: the backend, from `load_backend`.
        config: the model's configuration.
        params: the weights, in the form that `initial_parameters` returns.
        tokens: integers [B, T] from 0 to `config.vocab_size - 1`, where T is at most `config.n_ctx`.

    Returns:
        [B, T, V], float32 (float64 on a float64 backend).

    Raises:
        InputError: for weights or ids that do not fit the configuration.
    """
    tokens = check_tokens(config, tokens)
    params = check_parameters(config, params)
    return backend.to_numpy(compiled_forward(backend, config)(backend.load_params(params), backend.put(tokens)))


def loss_and_gradients(
    backend: Backend, config: GPT2Config, params: HostParams, tokens: ArrayLike, targets: ArrayLike
) -> tuple[float, HostParams]:
    """Mean cross entropy in nats of `targets` [B, T] after `tokens` [B, T], and its gradient, without dropout.

    The gradients have the names and shapes of `params`. Raises `InputError` for weights or ids that do not fit.
    """
    tokens, targets = check_tokens(config, tokens), check_tokens(config, targets, "targets")
    if tokens.shape != targets.shape:
        raise InputError(
            f"tokens are {list(tokens.shape)} and targets {list(targets.shape)}; they must have the same shape"
        )
    params = check_parameters(config, params)
    compiled = _compiled_loss_and_gradients(backend, config)
    loss, gradients = compiled(backend.load_params(params), backend.put(tokens), backend.put(targets))
    return float(backend.to_numpy(loss)), backend.dump_params(gradients)


def check_tokens(config: GPT2Config, tokens: ArrayLike, name: str = "tokens") -> np.ndarray:
    """Return `tokens` as int32 [B, T], or raise an `InputError` that says what is wrong with them."""
    try:
        array = np.asarray(tokens)
    except ValueError:
        raise InputError(f"{name} are integers [B, T]; these rows differ in length") from None
    if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} are integers [B, T], at least one; got {array.dtype} {list(array.shape)}")
    if array.shape[1] > config.n_ctx:
        raise InputError(f"{name} have {array.shape[1]} positions; this model has n_ctx = {config.n_ctx}")
    outside = (array < 0) | (array >= config.vocab_size)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InputError(
            f"{name}[{row}, {column}] is {array[row, column]}; this model's ids go from 0 to {config.vocab_size - 1}"
        )
    return array.astype(np.int32)


# These functions keep what a backend has compiled, so that repeated calls do not compile again.


@lru_cache(maxsize=16)
def compiled_forward(backend: Backend, config: GPT2Config) -> Callable[..., Tensor]:
    """Compile `forward` for one configuration: (device params, tokens) -> logits."""
    return backend.jit(lambda params, tokens: forward(backend.ops, config, params, tokens))


@lru_cache(maxsize=16)
def compiled_loss(backend: Backend, config: GPT2Config) -> Callable[..., Tensor]:
    """Compile the loss without dropout: (device params, tokens, targets) -> []."""
    return backend.jit(lambda params, *batch: language_model_loss(backend.ops, config, params, *batch))


@lru_cache(maxsize=16)
def _compiled_loss_and_gradients(backend: Backend, config: GPT2Config) -> Callable[..., tuple[Tensor, Tree]]:
    def loss(params: Tree, tokens: Tensor, targets: Tensor) -> Tensor:
        return language_model_loss(backend.ops, config, params, tokens, targets)

    return backend.jit(backend.value_and_grad(loss))


__all__ = [
    "Choice",
    "GenerateOptions",
    "Generation",
    "Generator",
    "Piece",
    "check_tokens",
    "compiled_forward",
    "compiled_loss",
    "generate",
    "logits",
    "loss_and_gradients",
    "stream",
]
