"""Where the contestants of a contest perform: what differs between contests, so that one loop serves them all."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from twinkle_tune.contest.selected import NO_BLOCK
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.measure.race import Race
from twinkle_tune.measure.rounds import Rounds
from twinkle_tune.outcome import Outcome, Phase, Rejection, Trial
from twinkle_tune.parity.verdict import Verdict
from twinkle_tune.profile.schema import TimedOn
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.terms import Terms


class Named(Protocol):
    """Whatever competes has a name, unique in its contest; "original" is that of the one that wins ties."""

    @property
    def name(self) -> str: ...


C = TypeVar("C", bound=Named)
Begins = Callable[[Phase], object]
"""Told which phase of a trial is about to begin."""


def not_compiled() -> tuple[int, int]:
    """No graph breaks, no recompilations."""
    return 0, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A candidate that stands in its place and was called once.

    Attributes:
        step: the call that is timed.
        first_call_us: microseconds of the first one, compilation included.
        judge: says whether it is right; None for the original, against which the others are held.
        again: says so once more after the race.
        forward: its forward alone, of a step that goes backward as well; None for any other.
        interpreted: whether it ran in Triton's interpreter, whose speed says nothing.
        counted: graph breaks and recompilations so far.
        notes: what is to be known of it.
    """

    step: Call
    first_call_us: float
    judge: Callable[[], Verdict] | None = None
    again: Callable[[], Verdict] | None = None
    forward: Call | None = None
    interpreted: bool = False
    counted: Callable[[], tuple[int, int]] = not_compiled
    notes: tuple[str, ...] = ()


class Stage(ABC, Generic[C]):
    """What all candidates of a contest share.

    Attributes:
        clock: that times them.
        timed_on: what the times are of where that is not the slot's own call.
        race_s: seconds that the race may take.
        least_race_s: seconds that it may take though the contest's time is over: more was paid to get there.
        no_time: what is said of a candidate whose turn is not begun since less is left than it needs.
    """

    clock: Clock
    timed_on: TimedOn | None = None
    race_s: float = math.inf
    least_race_s: float = 0.0
    no_time: str = NO_BLOCK

    @abstractmethod
    def enter(self, candidate: C, begins: Begins) -> Entrant | Rejection:
        """Load a candidate, put it in its place, and call it for the first time. The original is the first of all.

        A rejection is for what the stage finds out; errors pass through.
        """

    @abstractmethod
    def trial(self, candidate: C, outcome: Outcome) -> Trial:
        """The record of a candidate."""

    def race(self, peaks: Mapping[str, int | None], terms: Terms) -> Race | Rounds:
        """The race of some candidates with their peaks, "original" among them."""
        if terms.aim.is_memory:
            return Rounds(peaks, terms.aim, terms.settings, seed=terms.seed)
        return Race([name for name in peaks if name != ORIGINAL], terms.settings, seed=terms.seed)

    def needs_s(self, candidate: C) -> float:
        """Seconds without which a candidate's turn is not begun."""
        return 0.0

    @property
    def unjudged(self) -> str:
        """Why of no candidate can be said whether it is right; "" where it can."""
        return ""
