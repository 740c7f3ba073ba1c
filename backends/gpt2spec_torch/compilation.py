"""`torch.compile` of functions of a module, put off until one of them is called compiled.

The call alone loads Inductor: 20 MB and a fifth of a second, which a process that compiles nothing does without.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one graph for each combination of shapes, the same programs at each call."""
    return torch.compile(function, fullgraph=True, dynamic=False)
