"""Settings of the race: how much faster, how sure, how long."""

from __future__ import annotations

from dataclasses import dataclass

from twinkle_tune.errors import TuneError
from twinkle_tune.measure.statistics import sign_e_value

METHOD = 3
"""Counted up when the clocks or the race change so much that times from before must not be reused."""

FIRST_ACCEPT = 5
"""Counted rounds before which no challenger is accepted."""


class RaceSettingsError(TuneError, ValueError):
    """A setting of the race is out of its range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceSettings:
    """When a challenger wins, and when it leaves.

    Attributes:
        min_gain: share of the original's time that a winner must save (0.02: 2%).
        indifference: a challenger that is not this much faster than the leader need not be timed any longer.
        error_rate: chance, over all challengers, that one equal to the original is accepted all the same.
        warmup_rounds: rounds that are timed and not counted.
        max_rounds: counted rounds after which the race ends.
        hopeless: a challenger that is so much slower than the leader in each of the first three or four rounds leaves.
    """

    min_gain: float = 0.02
    indifference: float = 0.01
    error_rate: float = 0.01
    warmup_rounds: int = 2
    max_rounds: int = 60
    hopeless: float = 0.25

    def __post_init__(self) -> None:
        ranges = (
            ("min_gain", 0 < self.min_gain < 1, "more than 0 and less than 1, such as 0.02 for 2%"),
            ("indifference", 0 <= self.indifference < 1, "at least 0 and less than 1, such as 0.01 for 1%"),
            ("error_rate", 0 < self.error_rate < 1, "more than 0 and less than 1, such as 0.01 for 1%"),
            ("warmup_rounds", self.warmup_rounds >= 0, "at least 0, such as 2"),
            (
                "max_rounds",
                self.max_rounds >= FIRST_ACCEPT
                and self.error_rate * sign_e_value(self.max_rounds, self.max_rounds) >= 1,
                f"more, such as 60: at error rate {self.error_rate:g} so few rounds prove nothing, even if all are won",
            ),
            ("hopeless", self.hopeless > 0, "more than 0, such as 0.25 for 25%"),
        )
        for name, holds, expected in ranges:
            if not holds:
                raise RaceSettingsError(f"{name}: got {getattr(self, name)}, expected {expected}")
