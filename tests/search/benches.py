"""Benches without a GPU: recorded and made-up times with noise, read from a clock that takes a call's word for it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from tests.search.landscape import Landscape
from twinkle_tune.measure.clock import Call, CpuClock
from twinkle_tune.ops.space import Config
from twinkle_tune.outcome import Rejection
from twinkle_tune.parity.verdict import Pass, Verdict

SIGMA = 0.01
"""Standard deviation of the logarithm of a burst: that of a GPU whose clocks are not locked."""


class ToldClock(CpuClock):
    """A clock that takes a call's own word for its time."""

    def block_calls(self, call: Call) -> int:
        """One."""
        return 1

    def burst_us(self, call: Call, block_calls: int) -> float:
        """What the call returns."""
        time_us = call()
        assert isinstance(time_us, float)
        return time_us


class Replay:
    """A bench on a landscape. Every config is right; those without a time do not run.

    Attributes:
        timed: the configs that ran in the search, in order.
        refused: those that did not.
    """

    def __init__(self, landscape: Landscape, seed: int) -> None:
        self.clock = ToldClock()
        self.landscape = landscape
        self.timed: list[Config] = []
        self.refused: list[Config] = []
        self._random = random.Random(seed)

    def prepare(self, configs: Sequence[Config]) -> None:
        """Nothing to compile; but what is announced must be of the space."""
        assert all(not self.landscape.space.unfit(config) for config in configs)

    def time_us(self, config: Config) -> float | Rejection:
        """The recorded time with noise."""
        if self.landscape.time_us(config) is None:
            self.refused.append(config)
            return Rejection(stage="first call", reason="does not run")
        self.timed.append(config)
        return self._burst_us(config)

    def call(self, config: Config) -> Call:
        """A call that says how long it takes, another time each time."""
        return lambda: self._burst_us(config)

    def judge(self, config: Config) -> Verdict:
        """Right."""
        return Pass(figures=(), deterministic=True)

    def judge_again(self, config: Config) -> Verdict:
        """Still."""
        return self.judge(config)

    def _burst_us(self, config: Config) -> float:
        exact = self.landscape.time_us(config)
        assert exact is not None
        return exact * math.exp(self._random.gauss(0, SIGMA))
