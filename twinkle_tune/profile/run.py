"""How the run went that made a profile, and where its time went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["capture", "candidates", "race", "second race", "whole model", "ways", "rest"]
"""What a run does, in the order in which it begins with it:

- capture: runs the model, writes down its calls and finds out what share of a step they take.
- candidates: loads, compiles and checks the candidates of a contest, in a worker process that starts for the first one.
- race: times a contest's candidates.
- second race: times a winner, or a runner-up, against the original again.
- whole model: checks and times it with the winners and without.
- ways: compiles, checks and times ways of running the whole model.
- rest: everything else, such as writing the journal.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpan:
    """A stretch of a run's time.

    Attributes:
        phase: what it was spent on.
        name: of the slot and its call, or the label of the step; "" for what belongs to none.
        begin_s: seconds since the run began.
        took_s: seconds.
    """

    phase: Phase
    name: str
    begin_s: float
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """How the run went that made a profile.

    Attributes:
        took_s: seconds, loading the model not included.
        budget_s: seconds that it was given; None for no limit.
        stopped: what ended it before everything was done; "" where nothing did.
        needs_s: of a run that was stopped: seconds that all of it would take, about, by what was done; None where
            nothing was done yet, and for a run that was not stopped.
        torch_needs_s: the same with torch's own candidates alone; None, too, where none competes.
        recalled: contests that it did not run, since their outcomes were in its journal or in the store; None in a
            profile from before it was written down.
        calls: how often each step will be run, for which ways of running the model were chosen; None for no limit.
        recalled_whole: how many answers of the whole model it took from there: whether the winners gain in it, how ways
            of running it fare in a step (each step is one), whether both together gain; None as for ``recalled``.
        started_from: of a run that started from another machine's profile: whose, and what of it was confirmed.
    """

    took_s: float
    budget_s: float | None = None
    stopped: Literal["", "budget", "interrupted"] = ""
    needs_s: float | None = None
    torch_needs_s: float | None = None
    recalled: int | None = None
    calls: int | None = None
    recalled_whole: int | None = None
    spans: tuple[RunSpan, ...] = ()
    started_from: str = ""
