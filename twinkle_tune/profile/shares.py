"""How much of a step its slots take: by the times that stand beside the shares, wherever there are such times. Pure."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.schema import Contest, Profile, Seen, StepResult
from twinkle_tune.slot import ORIGINAL


def step_us(step: StepResult) -> float | None:
    """Microseconds of a whole step with its originals, median; None where it was not timed.

    Where it was compared with the winners, those rounds count, else the runs before the contests.
    """
    times_us = step.original_us or step.alone_us
    return median(times_us) if times_us else None


def original_us(contest: Contest) -> float | None:
    """Microseconds of one call of the original, median of the race that decided; None where it was not timed."""
    won = contest.selection.winner != ORIGINAL
    for trials in (contest.confirmation if won else (), contest.trials):
        for trial in trials:
            if trial.candidate == ORIGINAL and isinstance(trial.outcome, Measurement):
                return trial.outcome.median_us
    return None


def with_shares(profile: Profile) -> Profile:
    """The profile with each contest's share of a step made of its calls: calls x the original's median ÷ the step's.

    So they agree with the times beside them, and in training hold the backward as well. A share stays as it was seen
    where one of these times is missing, and in the compile modes, whose times are of other code than the steps'.
    """
    if profile.mode.compiles:
        return profile
    steps = {step.label: known for step in profile.steps if (known := step_us(step)) is not None}
    return replace(profile, contests=tuple(_with_shares(contest, steps) for contest in profile.contests))


def _with_shares(contest: Contest, steps: dict[str, float]) -> Contest:
    call_us = original_us(contest)
    if call_us is None or contest.block:
        return contest

    def shared(seen: Seen) -> Seen:
        whole_us = steps.get(seen.step)
        return seen if whole_us is None else replace(seen, share=round(min(1.0, seen.calls * call_us / whole_us), 4))

    return replace(contest, seen=tuple(shared(seen) for seen in contest.seen))
