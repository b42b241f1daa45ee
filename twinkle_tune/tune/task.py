"""What a contest is run from, and who can run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from twinkle_tune.capture.capture import Observation
from twinkle_tune.errors import TuneError
from twinkle_tune.measure.around import ClockAround
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.outcome import Stage
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import Candidate, Slot
from twinkle_tune.terms import Terms
from twinkle_tune.tune.events import Listener


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A contest to be run.

    Attributes:
        observation: the calls that it is about.
        candidates: who competes, the original first.
        terms: of the run.
        deadline_s: seconds after which no candidate is begun and the race ends; None for no limit.
        tunes: whether a tunable candidate that has no config yet gets one for this call before it is judged.
        further: whose further times are taken after the race: the original's where it won and nobody is to be timed
            again ("kept"), the original's and the winner's ("all"), or nobody's ("").
    """

    observation: Observation
    candidates: tuple[Candidate, ...]
    terms: Terms
    deadline_s: float | None = None
    tunes: bool = False
    further: Literal["", "kept", "all"] = ""


def digest_of(candidate: Candidate, slot: Slot, original: Callable[..., Any]) -> str:
    """Digest of a candidate's code; "" where it cannot be had, of which its rejection says why."""
    try:
        return candidate.source.digest(slot, original)
    except TuneError:
        return ""


class Executor(Protocol):
    """Where contests are run: in this process, or in a worker process."""

    def run(self, task: Task, listener: Listener) -> Contest:
        """Run a contest to its end; candidates that fail are rejections in its trials."""

    def confirm(self, task: Task, listener: Listener) -> Contest:
        """Run the contest of a winner against the original, as far from its first one as can be."""

    @property
    def elsewhere(self) -> str:
        """Where :meth:`confirm` runs it, in words: "in another process"."""


class Watch(Protocol):
    """Told who is at work, so that it is known when the process ends or hangs."""

    def begins(self, candidate: str, stage: Stage) -> Stage:
        """A candidate's code may run from now on. Returns the stage."""

    def ends(self, candidate: str) -> None:
        """The candidate is done for now. What it left behind may be looked at, and may end the contest."""

    def goes_on(self) -> None:
        """The candidate is in the same stage, and begins the next piece of it, which has the stage's time again."""

    def noticed(self, candidate: str) -> tuple[str, ...]:
        """What is to be known of the candidate's doings although it refuses nothing."""


class Unwatched:
    """Nobody looks."""

    def begins(self, candidate: str, stage: Stage) -> Stage:
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
