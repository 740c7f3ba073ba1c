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

from gpt2spec.errors import BackendError


class StrictArray(np.ndarray):
    """An array whose arithmetic demands operands of one dtype, and whose results are strict again."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        """Apply the ufunc to plain arrays after checking their dtypes."""
        if any(isinstance(x, Box) for x in inputs):
            return NotImplemented
        dtypes = _one_dtype(ufunc.__name__, inputs)
        plain = [_plain(x) for x in inputs]
        if out is not None:
            kwargs["out"] = tuple(_plain(x) for x in out)
        result = getattr(ufunc, method)(*plain, **kwargs)
        _refuse_new_float(ufunc.__name__, dtypes, result)
        return out[0] if out is not None else _strict(result)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Apply NumPy's own functions, such as `where` and `concatenate`; their results are strict."""
        operands = [x for arg in args for x in (arg if isinstance(arg, list | tuple) else [arg])]
        if func is np.where:
            operands = operands[1:]  # not the condition
        elif func is not np.concatenate:
            operands = [x for x in operands if _is_float(x)]  # whole numbers may be indices
        dtypes = _one_dtype(func.__name__, operands)
        result = super().__array_function__(func, types, args, kwargs)
        if func is not np.astype:
            _refuse_new_float(func.__name__, dtypes, result)
        return _strict(result)


def _one_dtype(name: str, operands: Any) -> set[np.dtype[Any]]:
    """The dtype of the numeric operands, Python scalars apart; they must have one. Booleans lend no precision."""
    arrays = [x for x in operands if isinstance(x, np.ndarray | np.generic)]
    dtypes = {x.dtype for x in arrays if x.dtype.kind in "fiu"}
    if len(dtypes) > 1:
        given = " and ".join(sorted(str(dtype) for dtype in dtypes))
        raise BackendError(f"{name} of {given}: the reference backend promotes no dtype; use ops.astype")
    return dtypes


def _refuse_new_float(name: str, dtypes: set[np.dtype[Any]], result: Any) -> None:
    """Raise where whole numbers became floats by themselves, as in exp(2) or 1 / 2."""
    dtype = getattr(result, "dtype", None)
    if dtype is not None and dtype.kind == "f" and dtype not in dtypes:
        given = " and ".join(sorted(map(str, dtypes))) or "bool"
        raise BackendError(f"{name} of {given} gives {dtype}: the reference backend promotes no dtype; use ops.astype")


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic) and x.dtype.kind == "f"


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, StrictArray) else x


def _strict(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return x.view(StrictArray)
    return np.asarray(x).view(StrictArray) if isinstance(x, np.generic) else x


class StrictSpace(ArrayVSpace):  # type: ignore[misc]  # autograd has no types
    """The space in which the tape makes the zeros that it adds gradients to: they are strict as well."""

    def zeros(self) -> Any:
        """A strict array of zeros."""
        return _strict(super().zeros())

    def ones(self) -> Any:
        """A strict array of ones."""
        return _strict(super().ones())


ArrayBox.register(StrictArray)
VSpace.register(StrictArray, StrictSpace)
