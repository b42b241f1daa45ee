"""A candidate that is out before timing: its rejection, and the event that says so."""

from __future__ import annotations

from twinkle_tune.cause import Cause, cause_of
from twinkle_tune.errors import TuneError
from twinkle_tune.outcome import Rejection, Stage
from twinkle_tune.tune.events import Listener, TrialRefused
from twinkle_tune.tune.watch import MeddledError


def cause_at(error: Exception, stage: Stage) -> Cause:
    """The cause that an error of a candidate stands for at a stage."""
    if isinstance(error, MeddledError):
        return "meddled"
    cause = cause_of(error)
    # Our own errors of loading say what is missing.
    return "unavailable" if stage == "load" and cause == "raised" and isinstance(error, TuneError) else cause


def refuse(listener: Listener, candidate: str, stage: Stage, reason: str, cause: Cause) -> Rejection:
    """The rejection of a candidate, of which the listener is told."""
    listener(TrialRefused(candidate=candidate, stage=stage, reason=reason, cause=cause))
    return Rejection(stage=stage, reason=reason, cause=cause)
