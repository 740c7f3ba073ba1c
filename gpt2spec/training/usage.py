"""This module measures how much of the machine a run uses: memory, and the share of the device's arithmetic."""

import sys
from typing import Any

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.costs import training_flops_per_token


def usage(
    backend: Backend, config: GPT2Config, context: int, tokens_per_second: float, device_flops: float | None
) -> dict[str, Any]:
    """The logged figures of the use of the machine; `mfu` is one of them if `device_flops` is known.

    Args:
        backend: computes in as many processes as it says.
        config: the model's shape.
        context: tokens in a window.
        tokens_per_second: the speed of all processes.
        device_flops: the most floating-point operations a second that a device can do.
    """
    found: dict[str, Any] = {"peak_memory": peak_memory(backend)}
    if device_flops:
        mfu = model_flops_utilization(config, context, tokens_per_second / backend.processes.ranks, device_flops)
        found["mfu"] = round(mfu, 4)
    return found


def peak_memory(backend: Backend) -> int | None:
    """The peak memory in bytes, of the device or else of this process; None where it is not measured."""
    counted = backend.peak_memory()
    return process_peak() if counted is None else counted


def process_peak() -> int | None:
    """The peak memory of this process in bytes; None where the system does not measure it."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def model_flops_utilization(config: GPT2Config, context: int, tokens_per_second: float, device_flops: float) -> float:
    """The model's operations a second over the device's most (Chowdhery et al. 2022, appendix B).

    Only the operations that the model needs count; whatever is computed twice to save memory does not.
    """
    return training_flops_per_token(config, context) * tokens_per_second / device_flops
