"""Objectives: what a winner must be better at, and how much slower it may be for that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from twinkle_tune.errors import ObjectiveError

DEFAULT_SLOWDOWN = 1.1
"""A tenth more time."""


class Objective(StrEnum):
    """What a winner must be better at than the original."""

    TIME = "time"
    MEMORY = "memory"
    """The smallest peak memory, whatever time it takes."""
    BALANCED = "balanced"
    """The smallest peak memory within a given slowdown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """An objective with what belongs to it.

    Attributes:
        objective: what a winner must be better at.
        slowdown: time over the original's that a winner may take at most, at least 1; of "balanced" alone.
    """

    objective: Objective = Objective.TIME
    slowdown: float | None = None

    @property
    def is_memory(self) -> bool:
        """Whether the smallest wins, and not the fastest."""
        return self.objective is not Objective.TIME

    @property
    def most(self) -> float:
        """The largest ratio of times that a winner by memory may have; infinite where time does not count."""
        return math.inf if self.slowdown is None else self.slowdown

    def __str__(self) -> str:
        return (
            str(self.objective) if self.slowdown is None else f"{self.objective}, at most {self.slowdown:g}x the time"
        )


BY_TIME = Aim()
"""What decides unless something else is asked for."""


def parse_aim(objective: object = Objective.TIME, slowdown: object = None) -> Aim:
    """The aim of an objective's name and a slowdown, which is 1.1 where a balanced one is given none.

    Raises:
        ObjectiveError: the objective is unknown, the slowdown no number of at least 1, or not of this objective.
    """
    try:
        named = Objective(str(objective).lower())
    except ValueError as error:
        raise ObjectiveError(
            f"objective: got {objective!r}, expected one of {', '.join(Objective)}; "
            "pass objective='time' for the fastest"
        ) from error
    if slowdown is not None and named is not Objective.BALANCED:
        raise ObjectiveError(
            f"slowdown: got {slowdown!r} with the objective {named}, expected it with balanced alone; "
            "leave it out, or pass objective='balanced'"
        )
    if named is not Objective.BALANCED:
        return Aim(objective=named)
    most = DEFAULT_SLOWDOWN if slowdown is None else slowdown
    if isinstance(most, bool) or not isinstance(most, (int, float)) or not 1 <= most < math.inf:
        raise ObjectiveError(
            f"slowdown: got {slowdown!r}, expected a number of at least 1, such as 1.1 for 10% more time"
        )
    return Aim(objective=named, slowdown=float(most))
