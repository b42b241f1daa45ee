"""Older profiles as today's: what schema 1 told in sentences alone. The one place that reads a sentence."""

from __future__ import annotations

import re
from dataclasses import replace

from twinkle_tune.cause import Cause
from twinkle_tune.outcome import Outcome, Phase, Rejection, Trial
from twinkle_tune.profile.schema import Contest

_BEGINS: dict[str, Cause] = {
    "raised ": "raised",
    "took more device memory ": "out of device memory",
    "took more ": "out of memory",
    "ended the process ": "crashed",
    "did not finish ": "timeout",
    "inconclusive: no room ": "no room",
    "inconclusive: ": "inconclusive",
}
_AT: dict[Phase, Cause] = {
    "load": "unavailable",
    "signature": "unfit",
    "capability": "unfit",
    "first call": "raised",
    "parity": "wrong",
    "timing": "not timed",
}
_HUB_NAME = re.compile(r"hub:(?P<repo>[^:@#]+/[^:@#]+):(?P<layer>[^:@#]+)(?:@(?P<pin>[^#]+))?(?:#\d+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OTHERS_SHARE = "which others in the process share"


def upgraded(contest: Contest) -> Contest:
    """A contest of schema 1 with a cause for each rejection, and a status; what is there already stays."""
    chosen = contest.selection
    unclear = not chosen.status and contest.status == "kept" and chosen.reason.startswith("no clear winner")
    return replace(
        contest,
        trials=tuple(map(_upgraded, contest.trials)),
        confirmation=tuple(map(_upgraded, contest.confirmation)),
        selection=replace(chosen, status="no clear winner" if unclear else contest.status),
    )


def _upgraded(trial: Trial) -> Trial:
    outcome = _with_cause(trial.outcome)
    cut_short = trial.config_cut_short or trial.config_origin.startswith("cut short: ")
    if outcome is trial.outcome and cut_short == trial.config_cut_short:
        return _with_place(trial)
    return replace(_with_place(trial), outcome=outcome, config_cut_short=cut_short)


def _with_place(trial: Trial) -> Trial:
    """A Hub candidate with the repo, the layer and the commit that its name tells."""
    named = _HUB_NAME.fullmatch(trial.candidate) if trial.source == "hub" else None
    if named is None or trial.repo:
        return trial
    pin = named["pin"] or ""
    commit = trial.commit or (pin if _COMMIT.fullmatch(pin) else "")
    return replace(trial, repo=named["repo"], layer=named["layer"], commit=commit)


def _with_cause(outcome: Outcome) -> Outcome:
    if not isinstance(outcome, Rejection) or outcome.cause:
        return outcome
    if _OTHERS_SHARE in outcome.reason:
        return replace(outcome, cause="meddled")
    told = next((cause for begin, cause in _BEGINS.items() if outcome.reason.startswith(begin)), _AT[outcome.stage])
    return replace(outcome, cause=told)
