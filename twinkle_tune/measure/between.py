"""The clock for slots on a CPU: single calls, each after some other work, as a call stands in a model.

Called over and over, code finds itself and its data in the caches, its branches predicted and its threads awake. In a
model other operations run between two calls of a slot, and what was faster by far may be so no more: ``make bench``
shows it with a compiled rotary embedding. (Sweeping all caches as well was tried: it made the times of
small calls vary by a third, and told no better what the whole model gained.)
"""

from __future__ import annotations

from statistics import median

import torch
from torch.nn import functional

from twinkle_tune.measure.clock import Call, CpuClock

_WIDTH, _INNER, _ROWS = 256, 1024, 12
"""Sizes of the other work: a layer with two matrices of 1 MiB. With 48 rows it took four times as long, and what it
allocated was large enough to be given back to the system each time: the times after it varied two to four times as
much."""

_SINGLE_CALLS = ((1_000.0, 11), (5_000.0, 7), (50_000.0, 5), (200_000.0, 3))
"""Timed calls of a burst, for calls of up to so many microseconds; one for longer calls."""


class BetweenCpuClock(CpuClock):
    """Wall time of single calls, each after the same other work: a gated layer, a norm and a softmax."""

    name = "CPU wall time between other operations"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._x = torch.randn(_ROWS, _WIDTH, generator=generator)
        self._up = torch.randn(_INNER, _WIDTH, generator=generator) / 16
        self._down = torch.randn(_WIDTH, _INNER, generator=generator) / 32

    def block_calls(self, call: Call) -> int:
        """How many single calls a burst times."""
        call()
        call_us = self.first_call_us(call)
        return next((calls for limit_us, calls in _SINGLE_CALLS if call_us <= limit_us), 1)

    def burst_us(self, call: Call, block_calls: int) -> float:
        """Microseconds of one call: the median of ``block_calls``, made one by one (after an untimed one if several).

        Raises:
            ClockFault: a time was zero or negative.
        """
        if block_calls > 1:
            self._other_work()
            call()
        return median(self._timed_us(call) for _ in range(block_calls))

    def _timed_us(self, call: Call) -> float:
        self._other_work()
        return self.first_call_us(call)

    def _other_work(self) -> None:
        with torch.no_grad():
            gate = functional.linear(self._x, self._up)
            mixed = functional.linear(functional.silu(gate) * gate, self._down)
            scale = torch.rsqrt(mixed.pow(2).mean(-1, keepdim=True) + 1e-6)
            torch.softmax(mixed * scale, dim=-1)
