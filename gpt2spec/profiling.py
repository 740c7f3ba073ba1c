"""This module profiles backends whose framework has no profiler."""

import cProfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def profiled_calls(path: Path) -> Iterator[None]:
    """Count and time Python's calls in this block with cProfile, and write them to `path`."""
    profiler = cProfile.Profile()
    with profiler:
        yield
    profiler.dump_stats(path)
