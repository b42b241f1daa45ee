"""What a contest tells while it goes on. Values only; ``index`` is that of the contest in its run, from 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twinkle_tune.cause import Cause
from twinkle_tune.outcome import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted:
    """A candidate is being loaded and checked."""

    candidate: str
    index: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRefused:
    """A candidate is out before timing."""

    candidate: str
    stage: Phase
    reason: str
    cause: Cause = ""
    index: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTimed:
    """A round of the race is done. ``best`` leads with ``ratio`` of the original's time (median so far)."""

    number: int
    alive: int
    best: str
    ratio: float
    index: int = 1


Tell = Callable[[TrialStarted | TrialRefused | RoundTimed], None]
