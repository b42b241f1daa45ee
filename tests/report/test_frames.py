"""The tables that every report takes its figures from."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.report import fabricate
from twinkle_tune.errors import ProfileError
from twinkle_tune.outcome import Measurement, ParityFigure
from twinkle_tune.profile.schema import Profile
from twinkle_tune.report import frames
from twinkle_tune.report.data import csv_text, parquet_bytes
from twinkle_tune.report.render import render


@pytest.mark.parametrize("profile", fabricate.ALL.values(), ids=fabricate.ALL)
def test_columns_are_the_documented_ones(profile: Profile) -> None:
    """Every table has exactly its documented columns and types, with rows or without."""
    for frame, columns in (
        (frames.selections(profile), frames.SELECTION_COLUMNS),
        (frames.trials(profile), frames.TRIAL_COLUMNS),
        (frames.samples(profile), frames.SAMPLE_COLUMNS),
        (frames.steps(profile), frames.STEP_COLUMNS),
        (frames.parity(profile), frames.PARITY_COLUMNS),
        (frames.conditions(profile), frames.RACE_COLUMNS),
        (frames.timings(profile), frames.TIMING_COLUMNS),
    ):
        assert {str(name): str(kind) for name, kind in frame.dtypes.items()} == dict(columns)


def test_empty_profile_gives_no_rows() -> None:
    """A profile without contests and steps gives four tables without rows."""
    empty = fabricate.empty()
    tables = (frames.selections(empty), frames.trials(empty), frames.samples(empty), frames.steps(empty))
    assert [len(table) for table in tables] == [0, 0, 0, 0]


def test_selection_row_says_what_won() -> None:
    """A contest's row holds the selection's figures, the medians, all calls and the largest share."""
    row = frames.records(frames.selections(fabricate.normal()))[0]
    expected = {
        "contest": 1,
        "slot": "RMSNorm",
        "kind": "layer",
        "call": "float32[1,128,256]",
        "instances": 4,
        "calls": 8,
        "share": 0.4119,  # 4 calls of 103.5 us in a step of 1005 us
        "timed_on": None,
        "winner": "fused",
        "status": "won",
        "ratio": 0.8,
        "low": 0.79,
        "high": 0.81,
        "speedup": 1.25,
        "visible_gain": None,
        "memory_ratio": None,
        "original_us": 103.5,
        "winner_us": pytest.approx(82.8),
        "reason": "faster in all 8 rounds",
        "workload": fabricate.won().workload.key,
    }
    assert row == expected


def test_trial_row_of_a_measurement() -> None:
    """A measured trial has its median, its ratio over paired rounds and its closest parity figure."""
    table = frames.trials(fabricate.normal()).set_index("candidate")
    fused, slow = table.loc["fused"], table.loc["slow"]
    assert fused["outcome"] == "measured"
    assert fused["ratio"] == pytest.approx(0.8)
    assert (fused["rounds"], fused["peak_bytes"], fused["deterministic"]) == (8, 1 << 20, True)
    assert (fused["parity_tensor"], fused["parity_margin"]) == ("gradient of weight", pytest.approx(0.8))
    # Three rounds against the original's first three: 150/100, 160/101, 170/102.
    assert slow["ratio"] == pytest.approx(160 / 101)
    assert slow["reason"] == "25% behind the leader after 3 rounds"


def test_trial_row_of_a_rejection() -> None:
    """A rejected trial has stage and reason, and no figure at all."""
    row = frames.trials(fabricate.normal()).set_index("candidate").loc["compile"]
    assert (row["outcome"], row["stage"], row["reason"]) == (
        "rejected",
        "first call",
        "RuntimeError: no compiler found",
    )
    figures = ["median_us", "ratio", "low", "high", "rounds", "first_call_us", "peak_bytes", "parity_margin"]
    assert row[figures].isna().all()


def test_a_second_race_is_told_from_the_first() -> None:
    """A winner that was timed again has trials and samples of both races; the selection's medians are of the second."""
    again = (
        fabricate.trial("original", fabricate.measurement(200.0, 202.0), "original"),
        fabricate.trial("fused", fabricate.measurement(150.0, 151.0)),
    )
    profile = fabricate.profile(replace(fabricate.won(), confirmation=again))
    trials = frames.trials(profile)
    second = trials[trials["race"] == 2].set_index("candidate")
    assert list(second.index) == ["original", "fused"]
    assert second.loc["fused", "ratio"] == pytest.approx((150 / 200 + 151 / 202) / 2)
    samples = frames.samples(profile)
    assert list(samples[samples["race"] == 2]["time_us"]) == [200.0, 202.0, 150.0, 151.0]
    row = frames.selections(profile).iloc[0]
    assert (row["original_us"], row["winner_us"]) == (201.0, pytest.approx(0.8 * 201.0))
    page = render(profile, "html")
    assert "fused, timed again" in page
    assert "fused, again" in page


def test_original_refused_leaves_no_ratio() -> None:
    """Without the original's times a candidate has a median but no ratio."""
    base = fabricate.all_rejected().contests[0]
    timed = replace(base.trials[1], outcome=fabricate.measurement(5.0, 6.0))
    profile = fabricate.profile(replace(base, trials=(base.trials[0], timed)))
    row = frames.records(frames.trials(profile))[1]
    assert (row["median_us"], row["ratio"], row["low"], row["high"]) == (5.5, None, None, None)


def test_exact_match_against_a_limit_of_zero_is_margin_zero() -> None:
    """An error of zero is as far from any limit as can be, also where the limit is zero."""
    figure = ParityFigure(tensor="output", point=1, error=0.0, limit=0.0)
    measured = fabricate.measurement(9.0, parity=(figure,))
    base = fabricate.one_sample().contests[0]
    changed = replace(base, trials=(base.trials[0], replace(base.trials[1], outcome=measured)))
    assert frames.records(frames.trials(fabricate.profile(changed)))[1]["parity_margin"] == 0.0


def test_samples_keep_every_raw_time() -> None:
    """The raw times come out one a row, in the order of the rounds, whole."""
    profile = fabricate.normal()
    table = frames.samples(profile)
    for number, contest in enumerate(profile.contests, 1):
        for trial in contest.trials:
            mine = table[(table["contest"] == number) & (table["candidate"] == trial.candidate)]
            times_us = trial.outcome.times_us if isinstance(trial.outcome, Measurement) else ()
            assert tuple(mine["time_us"]) == times_us
            assert list(mine["round"]) == list(range(1, len(times_us) + 1))


def test_impossible_time_is_one_clear_error() -> None:
    """A time of zero, which only a profile made by hand can have, is an error that names the candidate."""
    base = fabricate.one_sample().contests[0]
    broken = replace(base, trials=(base.trials[0], replace(base.trials[1], outcome=fabricate.measurement(0.0))))
    with pytest.raises(ProfileError, match=r"RMSNorm, candidate 'fused'.*profile the model again"):
        frames.trials(fabricate.profile(broken))


TABLES = pytest.mark.parametrize("name", frames.COLUMNS)


@TABLES
@pytest.mark.parametrize("profile", fabricate.ALL.values(), ids=fabricate.ALL)
def test_csv_loads_back_to_the_same_frame(profile: Profile, name: frames.Table) -> None:
    """Read back as documented, CSV is the table, to 12 digits at least."""
    read = pd.read_csv(
        io.StringIO(csv_text(profile, name)),
        dtype=dict(frames.COLUMNS[name]),
        keep_default_na=False,
        na_values=[""],
    )
    pd.testing.assert_frame_equal(read, frames.table(profile, name), rtol=1e-12, atol=0)


@TABLES
@pytest.mark.parametrize("profile", fabricate.ALL.values(), ids=fabricate.ALL)
def test_parquet_loads_back_to_the_same_frame(profile: Profile, name: frames.Table) -> None:
    """Read back, Parquet is the table, types included."""
    pytest.importorskip("pyarrow", reason="writes Parquet")
    read = pd.read_parquet(io.BytesIO(parquet_bytes(profile, name)))
    pd.testing.assert_frame_equal(read, frames.table(profile, name))


@TABLES
def test_a_profile_gives_its_tables(name: frames.Table) -> None:
    """``profile.to_frame()`` is the table of that name, and of the raw samples without one."""
    profile = fabricate.normal()
    pd.testing.assert_frame_equal(profile.to_frame(name), frames.table(profile, name))
    pd.testing.assert_frame_equal(profile.to_frame(), frames.samples(profile))


def test_every_column_is_explained() -> None:
    """The how-to names each column of each table."""
    page = Path(__file__).parents[2].joinpath("docs", "how-to", "read-a-report.md").read_text(encoding="utf-8")
    named = {column for columns in frames.COLUMNS.values() for column in columns}
    assert not {column for column in named if f"`{column}`" not in page}


def test_unknown_table_is_one_error() -> None:
    """A table that there is not is refused, with those that there are."""
    with pytest.raises(ProfileError, match="got 'rows', expected one of samples, trials"):
        fabricate.normal().to_frame("rows")  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", fabricate.ALL.values(), ids=fabricate.ALL)
def test_json_holds_every_table(profile: Profile) -> None:
    """JSON loads, without NaN, and holds the profile's head and the rows of the tables."""
    data = json.loads(render(profile, "json"), parse_constant=lambda name: pytest.fail(f"found {name}"))
    assert (data["verdict"], data["model"]["name"]) == (profile.verdict, profile.model.name)
    assert data["environment"]["fingerprint"] == profile.environment.fingerprint
    assert data["selections"] == frames.records(frames.selections(profile))
    assert data["trials"] == frames.records(frames.trials(profile))
    assert data["steps"] == frames.records(frames.steps(profile))
    assert data["uncalled"] == list(profile.uncalled)
