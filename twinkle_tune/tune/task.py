"""What a contest is run from, and who can run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from twinkle_tune.capture.capture import Observation
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import Candidate
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


class Executor(Protocol):
    """Where contests are run: in this process, or in a worker process."""

    def run(self, task: Task, listener: Listener) -> Contest:
        """Run a contest to its end; candidates that fail are rejections in its trials."""

    def confirm(self, task: Task, listener: Listener) -> Contest:
        """Run the contest of a winner against the original, as far from its first one as can be."""

    @property
    def elsewhere(self) -> str:
        """Where :meth:`confirm` runs it, in words: "in another process"."""
