"""The most that this machine can do, measured in PyTorch, with which the training steps are compared.

pytest benchmarks/test_machine.py --benchmark-json=/tmp/machine.json
"""

import statistics
import time
from collections.abc import Callable

import torch

SIZE = 3072
ROUNDS = 9


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def product_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of a product of square matrices, a good size for any library."""
    a, b = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * SIZE**3 / statistics.median(seconds(lambda: torch.mm(a, b)) for _ in range(ROUNDS)) / 1e9


def read_rate() -> float:
    """GB/s of reading memory that no cache holds."""
    x = torch.ones(2**28)  # a gigabyte
    x.sum()
    return x.numel() * x.element_size() / statistics.median(seconds(x.sum) for _ in range(ROUNDS)) / 1e9


def test_machine(benchmark) -> None:
    rates = {"float32": product_rate(torch.float32), "bfloat16": product_rate(torch.bfloat16)}
    found = benchmark.pedantic(lambda: {"gflops": rates, "gigabytes": read_rate()}, rounds=1)
    benchmark.extra_info.update(machine=found)
    print(f"\n{found}")
    assert min(*rates.values(), found["gigabytes"]) > 0
