"""A profile as pandas tables: one row a contest, a trial, a raw sample or a step.

The one file that imports pandas. Each table has a constant that names its columns and their pandas types; the
unit is in the name. A table of an empty profile has no rows and the same columns. Where a figure does not
apply the value is missing (NaN or NA). ``contest`` numbers the contests from 1 in the profile's order and
joins the tables of one profile; ``workload`` is the workload's key, which joins tables of several profiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

from twinkle_tune.errors import ProfileError
from twinkle_tune.measure.smallest import memory_ratio
from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.outcome import UNDECIDED, Measurement, Rejection, Timings, Trial, Untimed
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.profile.shares import with_shares
from twinkle_tune.profile.views import Table
from twinkle_tune.report.amdahl import amdahl
from twinkle_tune.report.columns import (
    COLUMNS,
    PARITY_COLUMNS,
    RACE_COLUMNS,
    SAMPLE_COLUMNS,
    SELECTION_COLUMNS,
    STEP_COLUMNS,
    TIMING_COLUMNS,
    TRIAL_COLUMNS,
)
from twinkle_tune.report.conditions import times_throttled
from twinkle_tune.report.further import against_original
from twinkle_tune.report.margin import closest, nearness
from twinkle_tune.report.text import call_text
from twinkle_tune.slot import ORIGINAL

__all__ = [
    "COLUMNS",
    "PARITY_COLUMNS",
    "RACE_COLUMNS",
    "SAMPLE_COLUMNS",
    "SELECTION_COLUMNS",
    "STEP_COLUMNS",
    "TIMING_COLUMNS",
    "TRIAL_COLUMNS",
    "Frame",
    "Row",
    "Table",
    "conditions",
    "decisive",
    "parity",
    "races",
    "records",
    "samples",
    "selections",
    "steps",
    "table",
    "times",
    "timings",
    "trials",
]

Row = dict[str, Any]
Frame = pd.DataFrame
"""The type of every table."""


def selections(profile: Profile) -> pd.DataFrame:
    """One row a contest: what is called, how often, what won, by how much. See :data:`SELECTION_COLUMNS`."""
    contests = enumerate(with_shares(profile).contests, 1)
    return _frame([_selection(number, contest) for number, contest in contests], SELECTION_COLUMNS)


def trials(profile: Profile) -> pd.DataFrame:
    """One row a trial: a candidate's times and parity, or why it was refused. See :data:`TRIAL_COLUMNS`.

    Raises:
        ProfileError: times that no clock gives (zero, negative, infinite), in a profile made by hand.
    """
    rows = [
        place
        | {"candidate": trial.candidate, "source": trial.source, "race": race}
        | _outcome(contest.slot.name, trial, times(held, ORIGINAL))
        for contest, place in _placed(profile)
        for race, held in races(contest)
        for trial in held
    ]
    return _frame(rows, TRIAL_COLUMNS)


def samples(profile: Profile) -> pd.DataFrame:
    """One row a raw sample: microseconds of one call in one round. See :data:`SAMPLE_COLUMNS`."""
    rows = [
        place | {"candidate": trial.candidate, "race": race, "round": index, "time_us": time_us}
        for contest, place in _placed(profile)
        for race, held in races(contest)
        for trial in held
        if isinstance(trial.outcome, Measurement)
        for index, time_us in enumerate(trial.outcome.times_us, 1)
    ]
    return _frame(rows, SAMPLE_COLUMNS)


def steps(profile: Profile) -> pd.DataFrame:
    """One row a step of the whole model, without and with the winners. See :data:`STEP_COLUMNS`."""
    rows: list[Row] = [
        {
            "step": step.label,
            "original_us": _median(step.original_us),
            "tuned_us": _of(step.ratio, _median(step.original_us)) if step.tuned_us else None,
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
    return _frame(rows, STEP_COLUMNS)


def parity(profile: Profile) -> pd.DataFrame:
    """One row a comparison of a measured candidate's tensor with its limit. See :data:`PARITY_COLUMNS`."""
    rows = [
        place
        | {"candidate": trial.candidate, "tensor": figure.tensor, "point": figure.point}
        | {"error": figure.error, "limit": figure.limit, "margin": nearness(figure)}
        for contest, place in _placed(profile)
        for trial in contest.trials
        if isinstance(trial.outcome, Measurement)
        for figure in trial.outcome.parity
    ]
    return _frame(rows, PARITY_COLUMNS)


def conditions(profile: Profile) -> pd.DataFrame:
    """One row a race of which the device's state is known. See :data:`RACE_COLUMNS`."""
    rows = [
        place
        | {
            "race": race,
            "clock_before_mhz": each.before.clock_mhz,
            "clock_after_mhz": each.after.clock_mhz,
            "temperature_before_c": each.before.temperature_c,
            "temperature_after_c": each.after.temperature_c,
            "throttling_before": each.before.throttling or None,
            "throttling_after": each.after.throttling or None,
            "throttled": times_throttled(each),
            "repeated": len(each.repeated),
            "repeated_reasons": "; ".join(each.repeated) or None,
        }
        for contest, place in _placed(profile)
        for race, each in enumerate(contest.conditions, 1)
    ]
    return _frame(rows, RACE_COLUMNS)


def timings(profile: Profile) -> pd.DataFrame:
    """One row a candidate whose further times were taken. See :data:`TIMING_COLUMNS`."""
    rows = [
        place
        | {"candidate": each.candidate, "host_us": each.host_us}
        | {"forward_us": each.forward_us, "backward_us": each.backward_us, "notes": "; ".join(each.notes) or None}
        | _further("cold", each, contest)
        | _further("graph", each, contest)
        for contest, place in _placed(profile)
        for each in contest.timings
    ]
    return _frame(rows, TIMING_COLUMNS)


def _further(clock: str, each: Timings, contest: Contest) -> Row:
    times_us = getattr(each, f"{clock}_us")
    row: Row = {f"{clock}_us": _median(times_us), f"{clock}_rounds": len(times_us)}
    ratio = against_original(f"{clock}_us", each, contest.timings)
    if ratio is None:
        return row
    return row | {f"{clock}_ratio": ratio.ratio, f"{clock}_low": ratio.low, f"{clock}_high": ratio.high}


def table(profile: Profile, name: Table = "samples") -> pd.DataFrame:
    """The table of that name.

    Raises:
        ProfileError: there is no such table.
    """
    makers = {
        "samples": samples,
        "trials": trials,
        "selections": selections,
        "steps": steps,
        "parity": parity,
        "conditions": conditions,
        "timings": timings,
    }
    if name not in makers:
        raise ProfileError(f"table: got {name!r}, expected one of {', '.join(makers)}")
    return makers[name](profile)


def records(frame: pd.DataFrame) -> list[Row]:
    """A table's rows as plain dictionaries; None where a value is missing."""
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]


def _frame(rows: list[Row], columns: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame(
        {name: pd.Series([row.get(name) for row in rows], dtype=kind) for name, kind in columns.items()}
    )


def _placed(profile: Profile) -> Iterator[tuple[Contest, Row]]:
    """Each contest with what its rows have in common, made once for all of them: a key takes longer than a row."""
    for number, contest in enumerate(profile.contests, 1):
        yield contest, _place(number, contest)


def _place(number: int, contest: Contest) -> Row:
    workload = contest.workload
    return {
        "contest": number,
        "slot": contest.slot.name,
        "call": call_text(workload),
        "workload": workload.key,
    }


def _selection(number: int, contest: Contest) -> Row:
    chosen = contest.selection
    figure = chosen if times(contest.trials, ORIGINAL) and contest.status not in UNDECIDED else None
    return _place(number, contest) | {
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
        "original_us": _median(times(decisive(contest), ORIGINAL)),
        "winner_us": _of(chosen.ratio, _median(times(decisive(contest), ORIGINAL))) if figure else None,
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
                "median_us": _median(measured.times_us),
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


def _median(times_us: tuple[float, ...]) -> float | None:
    return float(median(times_us)) if times_us else None
