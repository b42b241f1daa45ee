"""Clocks with cold caches: a second figure, which decides nothing.

The slot's inputs come from memory and not from a cache, and its results go there. In a model a slot stands somewhere in
between: its input was just written by the operation before, its weights have not been read since the step before.
Where the figure is far above the contest's, a kernel that moves less memory gains more in the model than the contest
says.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import torch

from twinkle_tune.device import parse_device
from twinkle_tune.measure.between import BetweenCpuClock
from twinkle_tune.measure.clock import Call, Clock, CudaClock, clock_for

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL_BYTES = 64 * 2**20
_CYCLES_PER_US = 2_000
"""Of a device at about 2 GHz."""
_LEAST_SLEEP_US, _MOST_SLEEP_US = 1e3, 1e5
_SINGLE_CALLS = 21


class ColdCpuClock(BetweenCpuClock):
    """Wall time of single calls, each after a buffer of twice the last-level cache was written."""

    name = "CPU wall time with cold caches"

    def __init__(self) -> None:
        self._buffer = torch.zeros(2 * last_cache_bytes() // 4)

    def _other_work(self) -> None:
        self._buffer.add_(1.0)


class ColdCudaClock(CudaClock):
    """Device time of single calls, each after a buffer of twice the L2 cache was read.

    Before each call the device sleeps for twice as long as the host needs to launch the call, so that the host is
    ahead and no launch is in the time.
    """

    name = "CUDA device time with a cold L2 cache"

    def __init__(self, device: str = "cuda") -> None:
        """As :class:`CudaClock`."""
        super().__init__(device)
        cache_bytes = int(torch.cuda.get_device_properties(self._device).L2_cache_size) or _USUAL_BYTES
        self._buffer = torch.zeros(2 * cache_bytes // 4, dtype=torch.int32, device=self._device)

    def block_calls(self, call: Call) -> int:
        """How many single calls a burst times: 21."""
        return _SINGLE_CALLS

    def burst_us(self, call: Call, block_calls: int) -> float:
        """Microseconds of one call: the median of ``block_calls``, made one by one after an untimed one.

        Raises:
            ClockFault: a time was zero or negative.
        """
        with torch.cuda.device(self._device):
            call()
            sleep_us = min(max(2 * self.host_us(call, 1), _LEAST_SLEEP_US), _MOST_SLEEP_US)
            return median(self._timed_us(call, sleep_us) for _ in range(block_calls))

    def _timed_us(self, call: Call, sleep_us: float) -> float:
        self.synchronize()
        # Read, not written: lines that were written would go back to memory while the call runs.
        self._buffer.amax()
        torch.cuda._sleep(int(sleep_us * _CYCLES_PER_US))  # type: ignore[no-untyped-call]
        return self.event_us(call)


def cold_clock(device: str) -> Clock:
    """The clock with cold caches of a device by name ("cpu", "cuda", "cuda:1", "rocm").

    Raises:
        DeviceError: the name is unknown, this machine does not have the device, or there is no clock for it.
    """
    clock_for(device)  # refuses what there is no clock for
    kind = parse_device(device)
    return ColdCpuClock() if kind == "cpu" else ColdCudaClock("cuda" + device.lower().removeprefix(kind))


def last_cache_bytes() -> int:
    """The processor's largest cache in bytes; 64 MiB where the system does not tell."""
    sizes = [path.read_text(encoding="ascii").strip() for path in _CACHES.glob("index*/size")]
    kibibytes = [int(size.removesuffix("K")) for size in sizes if size.endswith("K")]
    return max(kibibytes) * 2**10 if kibibytes else _USUAL_BYTES
