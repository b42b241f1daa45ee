"""A profile's figures as rows of plain values, None where one is missing: what reports show. No pandas.

The columns are those of :mod:`twinkle_tune.report.columns`, without the workload's key, which is no figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from twinkle_tune.errors import ProfileError
from twinkle_tune.measure.smallest import memory_ratio
from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.outcome import UNDECIDED, Measurement, Rejection, Trial, Untimed
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.report.amdahl import amdahl
from twinkle_tune.report.columns import TRIAL_COLUMNS
from twinkle_tune.report.margin import closest
from twinkle_tune.report.text import call_text
from twinkle_tune.slot import ORIGINAL

Row = dict[str, Any]
_NO_TRIAL: Row = {name: None for name in TRIAL_COLUMNS if name != "workload"}


def selection_rows(profile: Profile) -> Iterator[Row]:
    """One row a contest: what is called, how often, what won, by how much."""
    return (_selection(number, contest) for number, contest in enumerate(profile.contests, 1))


def trial_rows(profile: Profile) -> Iterator[Row]:
    """One row a trial: a candidate's times and parity, or why it was refused.

    Raises:
        ProfileError: times that no clock gives (zero, negative, infinite), in a profile made by hand.
    """
    for number, contest in enumerate(profile.contests, 1):
        yield from contest_rows(number, contest)


def contest_rows(number: int, contest: Contest) -> list[Row]:
    """Of one contest, as :func:`trial_rows`."""
    common = _NO_TRIAL | common_row(number, contest)
    return [
        common
        | {"candidate": trial.candidate, "source": trial.source, "race": race}
        | _outcome(contest.slot.name, trial, original_us)
        for race, held in races(contest)
        for original_us in [times(held, ORIGINAL)]
        for trial in held
    ]


def step_rows(profile: Profile) -> list[Row]:
    """One row a step of the whole model, without and with the winners."""
    return [
        {
            "step": step.label,
            "original_us": median_us(step.original_us),
            "tuned_us": _of(step.ratio, median_us(step.original_us)) if step.tuned_us else None,
            "ratio": step.ratio,
            "low": step.low,
            "high": step.high,
            "original_peak_bytes": step.original_peak_bytes,
            "tuned_peak_bytes": step.tuned_peak_bytes,
            "memory_ratio": memory_ratio(step.tuned_peak_bytes, step.original_peak_bytes),
            "rounds": min(len(step.original_us), len(step.tuned_us)),
            "covered": found.covered,
            "promised": found.promised,
            "optimizer": step.optimizer or None,
            "note": step.note or None,
        }
        for step in profile.steps
        for found in [amdahl(profile, step)]
    ]


def common_row(number: int, contest: Contest) -> Row:
    """What all rows of a contest have in common."""
    return {"contest": number, "slot": contest.slot.name, "call": call_text(contest.workload)}


def _selection(number: int, contest: Contest) -> Row:
    chosen = contest.selection
    figure = chosen if times(contest.trials, ORIGINAL) and contest.status not in UNDECIDED else None
    return common_row(number, contest) | {
        "kind": str(contest.slot.kind),
        "instances": len(contest.instances),
        "calls": sum(seen.calls for seen in contest.seen),
        "share": max((seen.share for seen in contest.seen), default=None),
        "timed_on": contest.block or None,
        "winner": chosen.winner,
        "status": contest.status,
        "ratio": figure and figure.ratio,
        "low": figure and figure.low,
        "high": figure and figure.high,
        "speedup": figure and 1 / figure.ratio,
        "visible_gain": chosen.visible_gain,
        "memory_ratio": chosen.memory_ratio,
        "original_us": median_us(times(decisive(contest), ORIGINAL)),
        "winner_us": _of(chosen.ratio, median_us(times(decisive(contest), ORIGINAL))) if figure else None,
        "reason": chosen.reason or None,
    }


def _outcome(slot: str, trial: Trial, original_us: Sequence[float]) -> Row:
    match trial.outcome:
        case Rejection(stage=stage, reason=reason):
            return {"outcome": "rejected", "stage": stage, "reason": reason}
        case Untimed(reason=reason):
            return {"outcome": "untimed", "reason": reason}
        case Measurement() as measured:
            return {
                "outcome": "measured",
                "median_us": median_us(measured.times_us),
                "rounds": len(measured.times_us),
                "first_call_us": measured.first_call_us,
                "peak_bytes": measured.peak_bytes,
                "deterministic": measured.deterministic,
                "graph_breaks": measured.graph_breaks,
                "recompilations": measured.recompilations,
                "reason": measured.left_race or None,
                "parity_notes": "; ".join(measured.notes) or None,
                **_ratio(slot, trial.candidate, measured.times_us, original_us),
                **closest(measured.parity),
            }


def _ratio(slot: str, candidate: str, times_us: Sequence[float], original_us: Sequence[float]) -> Row:
    if candidate == ORIGINAL:
        return {"ratio": 1.0, "low": 1.0, "high": 1.0}
    if not times_us or not original_us:
        return {}
    try:
        # A candidate that left the race early has fewer rounds: only rounds that both ran are pairs.
        found = paired_ratio(times_us, original_us)
    except ValueError as error:
        raise ProfileError(
            f"contest of {slot}, candidate {candidate!r}: no ratio from its times ({error}); profile the model again"
        ) from error
    return {"ratio": found.ratio, "low": found.low, "high": found.high}


def races(contest: Contest) -> tuple[tuple[int, tuple[Trial, ...]], ...]:
    """The contest as race 1 and, where its winner was timed again, that as race 2."""
    return ((1, contest.trials), (2, contest.confirmation)) if contest.confirmation else ((1, contest.trials),)


def decisive(contest: Contest) -> tuple[Trial, ...]:
    """The race that the selection's figures are of: the last one that its winner took part in."""
    chosen = contest.selection.winner
    again = chosen != ORIGINAL and times(contest.confirmation, chosen)
    return contest.confirmation if again else contest.trials


def times(race: Sequence[Trial], candidate: str) -> tuple[float, ...]:
    """A candidate's microseconds, a figure a round; empty where it was refused, or did not take part."""
    for trial in race:
        if trial.candidate == candidate and isinstance(trial.outcome, Measurement):
            return trial.outcome.times_us
    return ()


def _of(ratio: float, original_us: float | None) -> float | None:
    """The time that goes with a ratio: both are of the same rounds."""
    return None if original_us is None else ratio * original_us


def median_us(times_us: tuple[float, ...]) -> float | None:
    return float(median(times_us)) if times_us else None
