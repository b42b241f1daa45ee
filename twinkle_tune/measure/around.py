"""Clocks around another clock: for what must happen before and after a call that is timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from twinkle_tune.measure.clock import Call, Clock


class ClockAround(ABC):
    """A clock that does something before and after each call of another one, outside of what is timed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.name = clock.name

    @abstractmethod
    def _around(self, call: Call) -> AbstractContextManager[None]:
        """What stands around the timing of a call."""

    def block_calls(self, call: Call) -> int:
        """As :meth:`Clock.block_calls`."""
        with self._around(call):
            return self._clock.block_calls(call)

    def burst_us(self, call: Call, block_calls: int) -> float:
        """As :meth:`Clock.burst_us`."""
        with self._around(call):
            return self._clock.burst_us(call, block_calls)

    def first_call_us(self, call: Call) -> float:
        """As :meth:`Clock.first_call_us`."""
        with self._around(call):
            return self._clock.first_call_us(call)

    def peak_bytes(self, call: Call) -> int | None:
        """As :meth:`Clock.peak_bytes`."""
        with self._around(call):
            return self._clock.peak_bytes(call)

    def synchronize(self) -> None:
        """As :meth:`Clock.synchronize`."""
        self._clock.synchronize()
