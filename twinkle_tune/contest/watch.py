"""Who is at work in a contest, told to a watch: what a candidate does to its process is then known for its doing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from twinkle_tune.errors import TuneError
from twinkle_tune.measure.around import ClockAround
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.outcome import Phase


class MeddledError(TuneError):
    """A candidate changed what others in its process share."""


class Watch(Protocol):
    """Told who is at work, so that it is known when the process ends or hangs."""

    def begins(self, candidate: str, stage: Phase) -> Phase:
        """A candidate's code may run from now on. Returns the stage."""

    def ends(self, candidate: str) -> None:
        """The candidate is done for now. What it left behind may be looked at, and may end the contest."""

    def goes_on(self) -> None:
        """The candidate is in the same stage, and begins the next piece of it, which has the stage's time again."""

    def noticed(self, candidate: str) -> tuple[str, ...]:
        """What is to be known of the candidate's doings although it refuses nothing."""


class Unwatched:
    """Nobody looks."""

    def begins(self, candidate: str, stage: Phase) -> Phase:
        """Only the stage."""
        return stage

    def ends(self, candidate: str) -> None:
        """Nothing."""

    def goes_on(self) -> None:
        """Nothing."""

    def noticed(self, candidate: str) -> tuple[str, ...]:
        """Nothing."""
        return ()


class WatchedClock(ClockAround):
    """A clock that tells whose calls it is about to make. What it tells lies outside of what is timed."""

    def __init__(self, clock: Clock, calls: Mapping[str, Call], watch: Watch) -> None:
        """Of a clock, and the calls by the names of their candidates."""
        super().__init__(clock)
        self._watch = watch
        self._names = {id(call): name for name, call in calls.items()}

    @contextmanager
    def _around(self, call: Call) -> Iterator[None]:
        self._watch.begins(self._names[id(call)], "timing")
        yield
        self._watch.ends(self._names[id(call)])  # not after an error, which is the candidate's end
