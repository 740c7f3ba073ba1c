"""Arrays that refuse implicit dtype promotion.

NumPy promotes float32 with float64 silently, so a constant of the wrong dtype would lend the reference a
precision that other frameworks do not have. `StrictArray` raises instead; Python scalars are weak and pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from autograd.extend import Box, VSpace
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.numpy.numpy_vspaces import ArrayVSpace

from gpt2spec.backend import BackendError


class StrictArray(np.ndarray):
    """An array whose arithmetic demands operands of one dtype, and whose results are strict again."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        """Apply the ufunc to plain arrays after checking their dtypes."""
        if any(isinstance(x, Box) for x in inputs):
            return NotImplemented
        _refuse_promotion(ufunc.__name__, inputs)
        plain = [_plain(x) for x in inputs]
        if out is not None:
            kwargs["out"] = tuple(_plain(x) for x in out)
        result = getattr(ufunc, method)(*plain, **kwargs)
        return out[0] if out is not None else _strict(result)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Functions such as `where` and `concatenate`: NumPy's own, with strict results."""
        _refuse_promotion(func.__name__, args)
        return _strict(super().__array_function__(func, types, args, kwargs))


def _refuse_promotion(name: str, operands: Any) -> None:
    dtypes = {x.dtype for x in operands if isinstance(x, np.ndarray | np.generic) and x.dtype.kind in "fiu"}
    floats = {dtype for dtype in dtypes if dtype.kind == "f"}
    if len(floats) > 1 or (floats and len(dtypes) > 1 and name in _ARITHMETIC):
        given = " and ".join(sorted(str(dtype) for dtype in dtypes))
        raise BackendError(f"{name} of {given}: the reference backend promotes no dtype; use ops.astype")


_ARITHMETIC = frozenset({"add", "subtract", "multiply", "divide", "power", "matmul", "maximum", "minimum"})


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, StrictArray) else x


def _strict(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return x.view(StrictArray)
    return np.asarray(x).view(StrictArray) if isinstance(x, np.generic) else x


ArrayBox.register(StrictArray)
VSpace.register(StrictArray, ArrayVSpace)
