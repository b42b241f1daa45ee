"""Forward and backward apart: figures for a report. The verdict is on both together."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from twinkle_tune.measure.clock import Call, Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Microseconds of the forward of a training step, and what the backward takes beyond it."""

    forward_us: float
    backward_us: float


def time_passes(forward: Call, both: Call, clock: Clock, rounds: int = 5, block_calls: int | None = None) -> Passes:
    """Time the forward alone, and forward and backward together; the difference is the backward's.

    A backward by itself would have to run again and again over one kept graph, which kernels that reuse the
    graph's buffers for their gradients do not survive.

    Args:
        forward: makes the forward with gradients recorded, and lets its result go.
        both: makes forward and backward.
        clock: of the device.
        rounds: pairs of bursts; the medians count.
        block_calls: calls in a block of a burst; None for as many as the clock finds that it needs.

    Returns:
        The figures; ``backward_us`` is the median of the paired differences, and 0 where noise makes that negative.
    """
    forward_calls, both_calls = (block_calls or clock.block_calls(call) for call in (forward, both))
    forward_us, backward_us = [], []
    for _ in range(rounds):
        one_us = clock.burst_us(forward, forward_calls)
        forward_us.append(one_us)
        backward_us.append(clock.burst_us(both, both_calls) - one_us)
    return Passes(forward_us=median(forward_us), backward_us=max(0.0, median(backward_us)))
