"""The trace of a backend whose framework has no profiler of its own."""

import cProfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def profiled_calls(path: Path) -> Iterator[None]:
    """Count and time Python's calls inside, with cProfile, and write them to `path`."""
    profiler = cProfile.Profile()
    with profiler:
        yield
    profiler.dump_stats(path)
