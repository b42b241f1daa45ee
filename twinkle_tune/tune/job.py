"""A contest on its way through a worker process: who hears of it, who was refused so far, what an answer comes to."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from twinkle_tune.cause import Cause
from twinkle_tune.contest.events import TrialRefused
from twinkle_tune.outcome import Phase, Rejection, Untimed
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.events import Listener
from twinkle_tune.tune.package import Header, Unportable
from twinkle_tune.tune.task import Task
from twinkle_tune.tune.wire import event_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A contest on its way: what is sent, who hears of it, and who was refused so far."""

    task: Task
    header: Header
    told: Once
    refused: dict[str, Rejection | Untimed] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float | None:
        """Seconds of the task's time that are left."""
        deadline_s = self.task.deadline_s
        return None if deadline_s is None else max(0.0, deadline_s - (time.monotonic() - self.began_s))


class Refused(Exception):
    """A candidate, or the original, after which the worker process is to be replaced."""

    def __init__(
        self,
        candidate: str,
        stage: Phase,
        reason: str,
        cause: Cause,
        *,
        raised: bool = False,
        killed: bool = False,
        by_budget: bool = False,
    ) -> None:
        """``raised``: it raised an error, after which the process still stood; ``killed``: by SIGKILL.

        ``by_budget``: it took no longer than it may, but longer than a time budget left it.
        """
        super().__init__(reason)
        self.candidate, self.stage, self.reason, self.cause = candidate, stage, reason, cause
        self.raised, self.killed, self.by_budget = raised, killed, by_budget


class Once:
    """A listener to which what a repeated contest says again is not told again."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._told: set[tuple[type, str]] = set()
        self.last = ORIGINAL

    def __call__(self, event: Any) -> None:
        name = getattr(event, "candidate", None)
        self.last = name or ORIGINAL  # in the race it is everybody's turn
        if name is not None:
            if (type(event), name) in self._told:
                return
            self._told.add((type(event), name))
        self._listener(event)


def answered(answer: dict[str, Any], names: tuple[str, ...]) -> Exception | None:
    """What an answer that is no result comes to; None for an event."""
    match answer["is"]:
        case "event":
            return None
        case "fault":
            told = event_of(answer["event"])
            if isinstance(told, TrialRefused) and told.candidate in names:
                return Refused(told.candidate, told.stage, told.reason, told.cause)
        case "unportable":
            return Unportable(str(answer["reason"]))
        case "error":
            return Refused(ORIGINAL, "first call", str(answer["reason"]), "raised", raised=bool(answer["raised"]))
    raise ValueError(f"no such answer: {answer!r:.80}")
