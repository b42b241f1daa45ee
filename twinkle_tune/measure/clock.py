"""Clocks: how long one call takes on a device, timed in bursts.

All contestants are timed on the same buffers, hot from the call before: the placement of separate buffers in
memory alone makes one of two equal kernels the faster one. Times with cold caches are another figure, which
:mod:`twinkle_tune.measure.cold` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from statistics import median

# Bound here and now: code of a candidate that replaces the time module's functions changes nothing any more.
from time import perf_counter_ns as _now_ns
from typing import Protocol

import torch

from twinkle_tune.device import DEVICES, is_available, parse_device, torch_type
from twinkle_tune.errors import DeviceError, TuneError
from twinkle_tune.measure import cpu_memory
from twinkle_tune.peers import mean_of

Call = Callable[[], object]
"""One call of a candidate, its arguments bound. What it returns is let go at once."""

_LONG_CALL_US = 20_000.0
_STEADY_CALL_US = 5_000.0

_CPU_BLOCK_US = 50.0
_CPU_MAX_CALLS = 100_000
"""A call that does nothing at all takes longer than a 100,000th of a block."""

_CUDA_CALLS = (200, 500)
"""Enough that the one synchronisation at the end weighs nothing; more would only cost time."""
_CUDA_AIM_US = 5_000.0
_CUDA_MAX_BLOCK_US = 20_000.0
_HOST_CALLS = 50


class ClockFault(TuneError):
    """A clock said that work took no time, or less: the figure is no sample, and the clock no clock."""


class Clock(Protocol):
    """Times calls on one device."""

    @property
    def name(self) -> str:
        """What kind of time it tells, in words for a report."""

    def block_calls(self, call: Call) -> int:
        """How many calls one timed block of this one needs, found by calling it some times."""

    def burst_us(self, call: Call, block_calls: int) -> float:
        """Microseconds of one call: two untimed calls, then the median of five timed blocks.

        Calls over 5 ms, of which what is cold at their beginning is no part worth mentioning, get one untimed call
        and one block: more rounds tell more of their noise than more blocks in a round.

        Raises:
            ClockFault: a time was zero or negative.
        """

    def first_call_us(self, call: Call) -> float:
        """Microseconds of a single call, made now, with whatever compilation it brings about.

        Raises:
            ClockFault: the time was zero or negative.
        """

    def peak_bytes(self, call: Call) -> int | None:
        """The most memory of the device that one call takes beyond what was taken before; None if unknown."""

    def synchronize(self) -> None:
        """Wait until the device has done all that it was told."""


class CpuClock:
    """Wall time of a loop of at least 50 us, long against the clock's resolution."""

    name = "CPU wall time"

    def block_calls(self, call: Call) -> int:
        """As :meth:`Clock.block_calls`: doubled until the quickest of three loops takes 50 us."""
        call()
        if _block_ns(self, call, 1) >= _LONG_CALL_US * 1e3:
            return 1
        calls = 1
        while calls < _CPU_MAX_CALLS and min(_block_ns(self, call, calls) for _ in range(3)) < _CPU_BLOCK_US * 1e3:
            calls *= 2
        return calls

    def burst_us(self, call: Call, block_calls: int) -> float:
        """As :meth:`Clock.burst_us`."""
        return _burst_us(self, call, block_calls)

    def first_call_us(self, call: Call) -> float:
        """As :meth:`Clock.first_call_us`."""
        return checked_us(_block_ns(self, call, 1), 1, self.name)

    def peak_bytes(self, call: Call) -> int | None:
        """As :meth:`Clock.peak_bytes`, of what torch's allocator handed out to this thread."""
        return cpu_memory.peak_bytes(call)

    def synchronize(self) -> None:
        """Nothing: a CPU call is over when it returns."""


class CudaClock:
    """Wall time of many calls in a row and one synchronisation at their end, as an eager model runs them.

    Close to the larger of the time that the host takes to launch and the time that the device takes to
    compute. To synchronise after each call would hide that a small kernel is bound by its launch. For ROCm
    as well.
    """

    name = "CUDA eager wall time"

    def __init__(self, device: str = "cuda") -> None:
        """Of the device "cuda" (the current one) or "cuda:1".

        Raises:
            DeviceError: there is no such device.
        """
        if not torch.cuda.is_available():
            raise DeviceError(f"device: got {device!r}, which this machine does not have; pass device='cpu'")
        self._device = torch.device(device)
        if self._device.type != "cuda" or (self._device.index or 0) >= torch.cuda.device_count():
            raise DeviceError(f"device: got {device!r}, expected cuda:0 to cuda:{torch.cuda.device_count() - 1}")

    def block_calls(self, call: Call) -> int:
        """As :meth:`Clock.block_calls`: 200 to 500 calls, fewer where those would take over 20 ms."""
        _block_ns(self, call, 1)
        # Synchronising counts for much in a short call's time and for nothing in a long one's.
        one_us = checked_us(_block_ns(self, call, 1), 1, self.name)
        if one_us < _CUDA_MAX_BLOCK_US / 10:
            one_us = checked_us(_block_ns(self, call, 10), 10, self.name)
        return cuda_block_calls(one_us)

    def burst_us(self, call: Call, block_calls: int) -> float:
        """As :meth:`Clock.burst_us`."""
        return _burst_us(self, call, block_calls)

    def first_call_us(self, call: Call) -> float:
        """As :meth:`Clock.first_call_us`."""
        self.synchronize()
        return checked_us(_block_ns(self, call, 1), 1, self.name)

    def peak_bytes(self, call: Call) -> int:
        """As :meth:`Clock.peak_bytes`, of what torch's allocator handed out: it sees no one else's."""
        self.synchronize()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        call()
        self.synchronize()
        return max(0, torch.cuda.max_memory_allocated(self._device) - before)

    def synchronize(self) -> None:
        """As :meth:`Clock.synchronize`: every stream of the device."""
        torch.cuda.synchronize(self._device)

    def host_us(self, call: Call, block_calls: int) -> float:
        """Microseconds that the host needs to launch a call: a slot whose call takes no longer is bound by the host.

        The median of five blocks, of at most 50 calls: the device's queue must not fill up, or the host would wait.

        Raises:
            ClockFault: a time was zero or negative.
        """
        calls, rounds = min(block_calls, _HOST_CALLS), []
        for _ in range(5):
            self.synchronize()
            start_ns = _now_ns()
            for _ in range(calls):
                call()
            rounds.append(checked_us(_now_ns() - start_ns, calls, self.name))
        self.synchronize()
        return median(rounds)

    def event_us(self, work: Callable[[], object]) -> float:
        """Microseconds that the device is at ``work``, between an event before it and one behind it.

        Raises:
            ClockFault: the time was zero or negative.
        """
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        end.synchronize()
        return checked_us(round(start.elapsed_time(end) * 1e6), 1, self.name)


def clock_for(device: str) -> Clock:
    """The clock of a device by name ("cpu", "cuda", "cuda:1", "rocm").

    Raises:
        DeviceError: the name is unknown, this machine does not have the device, or there is no clock for it.
    """
    kind = parse_device(device)
    if kind == "cpu":
        return CpuClock()
    if torch_type(kind) != "cuda":
        timed = ", ".join(name for name in DEVICES if name == "cpu" or torch_type(name) == "cuda")
        raise DeviceError(f"device: got {device!r}, for which there is no clock, expected one of {timed}")
    if not is_available(kind):
        raise DeviceError(f"device: got {device!r}, which this machine does not have; pass device='cpu'")
    return CudaClock("cuda" + device.lower().removeprefix(kind))


def cuda_block_calls(call_us: float) -> int:
    """Calls in a CUDA block where one takes ``call_us``: about 5 ms, within 200 to 500, at most 20 ms."""
    fewest, most = _CUDA_CALLS
    wanted = min(max(int(_CUDA_AIM_US / call_us), fewest), most)
    return max(1, min(wanted, int(_CUDA_MAX_BLOCK_US / call_us)))


def _burst_us(clock: Clock, call: Call, block_calls: int) -> float:
    if block_calls < 1:
        raise ValueError(f"block_calls: got {block_calls}, expected at least 1; ask Clock.block_calls")
    clock.synchronize()
    untimed_us = _block_ns(clock, call, 1) / 1e3
    blocks = 5 if untimed_us <= _STEADY_CALL_US else 1
    if blocks > 1:
        _block_ns(clock, call, 1)
    return median(checked_us(_block_ns(clock, call, block_calls), block_calls, clock.name) for _ in range(blocks))


def _block_ns(clock: Clock, call: Call, calls: int) -> float:
    # What several processes decide by it (how many calls a block needs) is the same then: a call may wait for theirs.
    synchronize, rounds = clock.synchronize, repeat(None, calls)
    start_ns = _now_ns()
    for _ in rounds:
        call()
    synchronize()
    return mean_of("a block", _now_ns() - start_ns)


def checked_us(block_ns: float, calls: int, name: str) -> float:
    """Microseconds of one of so many calls that took ``block_ns`` nanoseconds together.

    Raises:
        ClockFault: the time is zero or negative.
    """
    if block_ns <= 0:
        raise ClockFault(
            f"{name}: got {block_ns} ns for {calls} calls, expected a positive time; "
            "the machine's clock cannot be trusted: repeat the run, elsewhere if it happens again"
        )
    return block_ns / calls / 1e3
