"""Kernels under pytest-benchmark, timed as a profiling run times them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch

from twinkle_tune.measure.clock import Call, Clock, clock_for
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.measure.run import run_race
from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.slot import ORIGINAL

_ALONE = 12
"""Bursts of a call that is held against no other."""
_KERNEL = "kernel"


def benchmark_kernel(
    benchmark: Any,
    call: Callable[..., Any],
    *args: Any,
    original: Callable[..., Any] | None = None,
    settings: RaceSettings | None = None,
    **kwargs: Any,
) -> Any:
    """Time a call by our clock, and report its times through pytest-benchmark: one round is one burst.

    Args:
        benchmark: pytest-benchmark's fixture of that name, which gets the times.
        call: the kernel; args and kwargs are its arguments, the same buffers in every call.
        original: what it is held against, with the same arguments. The two then race in interleaved rounds, and
            ``extra_info`` has what came of it: ``ratio`` (median of the paired ratios), ``low`` and ``high`` (its
            interval), ``rounds``, and ``faster`` (whether the race says so).
        settings: of the race.

    Returns:
        What the call gives. With ``--benchmark-disable`` it is made once and not timed.

    Raises:
        Exception: whatever the calls raise.
    """
    made = functools.partial(call, *args, **kwargs)
    result = made()
    if benchmark.disabled:
        return result
    clock = clock_for(_device_of((*args, *kwargs.values())))
    if original is None:
        times_us = _alone(made, clock)
    else:
        calls = {ORIGINAL: functools.partial(original, *args, **kwargs), _KERNEL: made}
        calls[ORIGINAL]()
        decision, times = run_race(calls, clock, settings or RaceSettings())
        times_us = times[_KERNEL]
        if not times_us:
            raise RuntimeError(f"{_KERNEL}: it left the race in its first round; call it alone to see why")
        ratio = paired_ratio(times_us, times[ORIGINAL])
        benchmark.extra_info.update(
            ratio=ratio.ratio, low=ratio.low, high=ratio.high, rounds=ratio.rounds, faster=decision.winner == _KERNEL
        )
    # pytest-benchmark reads its timer before and after each round; there is no public way to give it times.
    benchmark._timer = _told(times_us)
    benchmark.pedantic(lambda: None, rounds=len(times_us), iterations=1)
    return result


def _alone(call: Call, clock: Clock) -> Sequence[float]:
    calls = clock.block_calls(call)
    return [clock.burst_us(call, calls) for _ in range(_ALONE)]


def _told(times_us: Sequence[float]) -> Callable[[], float]:
    """A timer whose differences, from one reading to the next but one, are these times in seconds."""
    readings = _readings(times_us)

    def twinkle_tune() -> float:
        return next(readings)

    return twinkle_tune


def _readings(times_us: Sequence[float]) -> Iterator[float]:
    begins = 0.0
    for ends in accumulate(time_us * 1e-6 for time_us in times_us):
        yield begins
        yield ends
        begins = ends


def _device_of(arguments: Sequence[Any]) -> str:
    found = next((each.device.type for each in arguments if isinstance(each, torch.Tensor)), "cpu")
    return found if found == "cpu" or torch.version.hip is None else "rocm"
