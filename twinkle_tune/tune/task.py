"""What a contest is run from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from twinkle_tune.capture.capture import Observation
from twinkle_tune.slot import Candidate
from twinkle_tune.terms import Terms


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
        index: of the contest in its run, from 1.
        again: whether it is the second race of a winner: held as far from its first one as can be.
        environment: fingerprint of the only environment that it may be held in; "" for any.
    """

    observation: Observation
    candidates: tuple[Candidate, ...]
    terms: Terms
    deadline_s: float | None = None
    tunes: bool = False
    further: Literal["", "kept", "all"] = ""
    index: int = 1
    again: bool = False
    environment: str = ""
