"""The NumPy backend: what runs where nothing else is installed, and the oracle of the conformance suite."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2spec.backend import Backend, Capabilities
from gpt2spec.ops import NativeKey as Key
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec.ops import TensorOps
from gpt2spec.options import check_dtype
from gpt2spec_numpy import tape
from gpt2spec_numpy.fast_ops import FastNumpyOps
from gpt2spec_numpy.ops import NumpyOps


class NumpyBackend(Backend):
    """NumPy on the CPU. It compiles nothing; its fast mode updates the optimizer's state in place."""

    name = "numpy"
    device = "cpu"

    def __init__(self, dtype: str, mode: str) -> None:
        self.mode = mode
        self.capabilities = Capabilities(dtypes=("float32", "float64"), in_place=mode == "fast")
        check_dtype(self.name, dtype, self.capabilities)
        self.ops: TensorOps = FastNumpyOps(dtype) if mode == "fast" else NumpyOps(dtype)

    def value_and_grad(self, function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Any]]:
        """Differentiates in reverse mode on autograd's tape."""
        return tape.value_and_grad(function)

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself."""
        return function

    def jit_update(self, function: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        """The function itself; in fast mode it may write into the old state."""
        ops = self.ops
        if not isinstance(ops, FastNumpyOps):
            return function

        def run(*args: Any) -> tuple[Any, Any]:
            ops.in_place = True
            try:
                return function(*args)
            finally:
                ops.in_place = False

        return run

    def dropout_key(self, seed: int, step: int) -> Key:
        """The beginning of a path of whole numbers; `fold_in` adds to it."""
        return (seed, step)

    def to_numpy(self, x: Tensor) -> np.ndarray:
        """A copy: the tensor may be updated in place later."""
        return np.array(x, subok=False)
