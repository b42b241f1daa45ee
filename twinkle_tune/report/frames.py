"""A profile as pandas tables: one row a contest, a trial, a raw sample or a step.

The one file that imports pandas. Each table has a constant that names its columns and their pandas types; the
unit is in the name. A table of an empty profile has no rows and the same columns. Where a figure does not
apply the value is missing (NaN or NA). ``contest`` numbers the contests from 1 in the profile's order and
joins the tables of one profile; ``workload`` is the workload's key, which joins tables of several profiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pandas as pd

from twinkle_tune.errors import ProfileError
from twinkle_tune.outcome import Measurement, Timings
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.profile.views import Table
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
from twinkle_tune.report.margin import nearness
from twinkle_tune.report.rows import Row, common_row, median_us, races, selection_rows, step_rows, trial_rows

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
    "parity",
    "records",
    "samples",
    "selections",
    "steps",
    "table",
    "timings",
    "trials",
]

Frame = pd.DataFrame
"""The type of every table."""


def selections(profile: Profile) -> pd.DataFrame:
    """One row a contest: what is called, how often, what won, by how much. See :data:`SELECTION_COLUMNS`."""
    return _frame(_with_keys(selection_rows(profile), profile), SELECTION_COLUMNS)


def trials(profile: Profile) -> pd.DataFrame:
    """One row a trial: a candidate's times and parity, or why it was refused. See :data:`TRIAL_COLUMNS`.

    Raises:
        ProfileError: times that no clock gives (zero, negative, infinite), in a profile made by hand.
    """
    return _frame(_with_keys(trial_rows(profile), profile), TRIAL_COLUMNS)


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
    return _frame(step_rows(profile), STEP_COLUMNS)


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
    row: Row = {f"{clock}_us": median_us(times_us), f"{clock}_rounds": len(times_us)}
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
        yield contest, common_row(number, contest) | {"workload": contest.workload.key}


def _with_keys(rows: Iterable[Row], profile: Profile) -> list[Row]:
    keys = {number: contest.workload.key for number, contest in enumerate(profile.contests, 1)}
    return [row | {"workload": keys[row["contest"]]} for row in rows]
