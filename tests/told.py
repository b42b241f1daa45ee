"""A clock that is told the times, so that no load of the machine decides a test's contest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

CLOCKS = ("contest.call.slot_clock", "tune.tune.clock_for", "tune.setups.clock_for")
"""Where ``tune_model`` has its clocks from."""


class Told:
    """A clock by which a call takes 100 µs, and what is told to it meanwhile."""

    name = "told"

    def __init__(self) -> None:
        self.us = 0.0

    def block_calls(self, call: Callable[[], object]) -> int:
        """One."""
        return 1

    def burst_us(self, call: Callable[[], object], block_calls: int) -> float:
        """The time of one call."""
        return self.first_call_us(call)

    def first_call_us(self, call: Callable[[], object]) -> float:
        """The time of one call."""
        before = self.us
        call()
        return 100.0 + self.us - before

    def peak_bytes(self, call: Callable[[], object]) -> None:
        """Not known."""

    def synchronize(self) -> None:
        """Nothing waits."""


def told_clock(monkeypatch: pytest.MonkeyPatch, clock: Told | None = None) -> Told:
    """The clock of everything that ``tune_model`` times in this process from now on."""
    clock = Told() if clock is None else clock
    for place in CLOCKS:
        monkeypatch.setattr(f"twinkle_tune.{place}", lambda device, **_: clock)
    return clock
