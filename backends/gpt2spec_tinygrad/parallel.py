"""Several devices of one process: rows of a batch are divided among them, and all else is on each.

A tensor of tinygrad may lie on several devices, whole on each or split along an axis. What is computed from such
tensors stays so, and what adds up over a split axis is added up over the devices: gradients are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tinygrad.device import Device

from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec_tinygrad.backend import TinygradBackend
from gpt2spec_tinygrad.ops import TinygradOps


class ParallelTinygradBackend(TinygradBackend):
    """tinygrad on several devices of a kind; each has rows of the batch."""

    def __init__(self, devices: Sequence[str], dtype: str, compile: bool) -> None:
        super().__init__(devices[0], dtype, compile)
        self.devices = tuple(devices)
        self.row_shares = len(devices)
        self.first = self.ops
        self.ops = ParallelTinygradOps(self.first, self.devices)

    def put_rows(self, array: np.ndarray) -> Tensor:
        """Divide rows among the devices."""
        return self.first.asarray(array, "int32").shard(self.devices, axis=0).realize()

    def synchronize(self) -> None:
        """Wait for all of them."""
        for name in self.devices:
            Device[name].synchronize()  # type: ignore[no-untyped-call]


class ParallelTinygradOps(TinygradOps):
    """Operations whose new tensors are whole on every device."""

    def __init__(self, first: TinygradOps, devices: tuple[str, ...]) -> None:
        super().__init__(first.dtype, devices)
        self.first, self.devices = first, devices

    def asarray(self, values: Any, dtype: str) -> Tensor:  # noqa: D102
        return self.first.asarray(values, dtype).shard(self.devices).realize()
