"""The roof over a device's speed, measured: how fast it copies, and how fast it multiplies.

After the roofline model (Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009): no call takes less time than
its bytes or its arithmetic need at these rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns

import torch

_COPY_BYTES = 1 << 25
_MATRIX = 512
_TIMES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """What a device reached in a copy and in a product of matrices; per microsecond."""

    bytes_per_us: float
    flops_per_us: float

    def least_us(self, moved_bytes: int, flops: int) -> float:
        """No call that moves so much and computes so much takes less time than this, in microseconds."""
        return max(moved_bytes / self.bytes_per_us, flops / self.flops_per_us)


def measured_roof(device: torch.device, dtype: torch.dtype) -> Roof:
    """Copy 32 MiB and multiply two matrices of 512 (4096 on a GPU) a few times, and keep the best of each."""
    width = _MATRIX if device.type == "cpu" else 8 * _MATRIX
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    matrix = torch.ones(width, width, dtype=dtype, device=device)
    copy_us = _best_us(lambda: target.copy_(source), device)
    product_us = _best_us(lambda: matrix @ matrix, device)
    return Roof(bytes_per_us=2 * _COPY_BYTES / copy_us, flops_per_us=2 * width**3 / product_us)


def _best_us(call: Callable[[], object], device: torch.device) -> float:
    call()
    times_us = []
    for _ in range(_TIMES):
        _wait(device)
        began_ns = perf_counter_ns()
        call()
        _wait(device)
        times_us.append(max(1, perf_counter_ns() - began_ns) / 1e3)
    return min(times_us)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
