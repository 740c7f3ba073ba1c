"""Work in cache-sized pieces on every core, and matrix products on as many cores as they are worth.

NumPy's ufuncs each pass over their whole operand, and a pass through main memory costs ten times the arithmetic;
so elementwise work is cut into pieces that stay in a core's cache. BLAS computes matrix products; it shares even
small ones among all cores and spins until the last is done. On a busy machine that takes a time slice instead of a
tenth of a millisecond, so products with small weights are kept on one core.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

T = TypeVar("T")

PIECE = 1 << 15
"""Values in a piece: 128 KiB of float32, so that half a dozen operands fit in a core's second-level cache."""
SMALL_WEIGHT = 1 << 18
"""Values in a weight below which a product with it stays on one core."""

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_pool = ThreadPoolExecutor(CORES, thread_name_prefix="gpt2spec-numpy")
_blas = ThreadpoolController().select(user_api="blas").lib_controllers  # those loaded so far, NumPy's among them
_lock = threading.Lock()
_on_one_core = 0  # callers inside `one_core`, in however many threads
_before: list[int] = []  # threads of each library when the first of them entered


def in_parallel(work: Callable[[int], T], count: int) -> list[T]:
    """`[work(0), ..., work(count - 1)]`, on all cores. NumPy lets go of the interpreter while it computes."""
    if count == 1 or CORES == 1:
        return [work(i) for i in range(count)]
    return list(_pool.map(work, range(count)))


def in_pieces(work: Callable[[slice], T], rows: int, width: int) -> list[T]:
    """Call `work` on slices of `rows` rows of `width` values, each slice about `PIECE` values, on all cores."""
    step = max(1, PIECE // max(1, width))
    slices = [slice(i, min(i + step, rows)) for i in range(0, rows, step)]
    if len(slices) == 1:
        return [work(slices[0])]
    share = -(-len(slices) // CORES)  # a run of neighbouring pieces for each core

    def run(core: int) -> list[T]:
        return [work(piece) for piece in slices[core * share : (core + 1) * share]]

    return [result for results in in_parallel(run, CORES) for result in results]


@contextmanager
def one_core() -> Iterator[None]:
    """Keeps BLAS on one core, for small products, and for products in several threads at once."""
    global _on_one_core
    with _lock:
        if _on_one_core == 0:
            _before[:] = [library.get_num_threads() for library in _blas]
            for library in _blas:
                library.set_num_threads(1)
        _on_one_core += 1
    try:
        yield
    finally:
        with _lock:
            _on_one_core -= 1
            if _on_one_core == 0:
                for library, count in zip(_blas, _before, strict=True):
                    library.set_num_threads(count)


def product(a: Any, b: Any, weight: Any, out: Any = None) -> Any:
    """a @ b, where one of the three matrices involved has the shape of `weight`, on one core if that is small."""
    if weight.size >= SMALL_WEIGHT:
        return np.matmul(a, b, out=out)
    with one_core():
        return np.matmul(a, b, out=out)
