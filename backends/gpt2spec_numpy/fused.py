"""Hand-derived gradients on autograd's tape, and work in cache-sized pieces on every core.

`fused` registers a forward and a backward through autograd's extension interface. The other two functions
cut elementwise work into pieces that stay in a core's cache: NumPy's ufuncs each pass over their whole
operand, and a pass through main memory costs ten times the arithmetic.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from autograd.extend import defvjp_argnums, primitive

PIECE = 1 << 15
"""Values in a piece: 128 KiB of float32, so that half a dozen operands fit in a core's second-level cache."""

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_pool = ThreadPoolExecutor(_CORES, thread_name_prefix="gpt2spec-numpy")


def fused(forward: Callable[..., Any], backward: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]:
    """A differentiable function whose gradients are computed together.

    `forward(saved, *args)` may put what the backward needs into the dict `saved`;
    `backward(saved, g, *args)` returns the gradients of the leading args, in new arrays of their own
    (which the tape may then add to in place). Neither may write to its arguments.
    """
    operation = primitive(forward)

    def make_vjp(argnums: Sequence[int], answer: Any, args: Sequence[Any], kwargs: Any) -> Callable[[Any], Any]:
        saved, *inputs = args

        def vjp(g: Any) -> Iterator[Any]:
            gradients = backward(saved, g, *inputs)
            return (gradients[i - 1] for i in argnums)

        vjp.fresh = True  # type: ignore[attr-defined]  # read by tape.backward
        return vjp

    defvjp_argnums(operation, make_vjp)
    return lambda *args: operation({}, *args)


def in_parallel(work: Callable[[int], Any], count: int) -> list[Any]:
    """`[work(0), ..., work(count - 1)]`, on all cores. NumPy lets go of the interpreter while it computes."""
    if count == 1 or _CORES == 1:
        return [work(i) for i in range(count)]
    return list(_pool.map(work, range(count)))


def in_pieces(work: Callable[[slice], Any], rows: int, width: int) -> list[Any]:
    """Call `work` on slices of `rows` rows of `width` values, each slice about `PIECE` values, on all cores."""
    step = max(1, PIECE // max(1, width))
    slices = [slice(i, min(i + step, rows)) for i in range(0, rows, step)]
    if len(slices) == 1:
        return [work(slices[0])]
    share = -(-len(slices) // _CORES)  # a run of neighbouring pieces for each core

    def run(core: int) -> list[Any]:
        return [work(piece) for piece in slices[core * share : (core + 1) * share]]

    return [result for results in in_parallel(run, _CORES) for result in results]
