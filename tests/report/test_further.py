"""How a report shows the times that decide nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report import fabricate
from twinkle_tune.errors import ProfileError
from twinkle_tune.outcome import Timings
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.json_text import to_data
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.report import frames
from twinkle_tune.report.further import further_part
from twinkle_tune.report.lines import FURTHER
from twinkle_tune.report.render import Format, render
from twinkle_tune.report.terminal import terminal_text

ORIGINAL = Timings(candidate="original", cold_us=(110.0,) * 9, graph_us=(40.0,) * 9, host_us=95.0)


def with_cold(cold_us: float, rounds: int = 9) -> Contest:
    """The contest that "fused" won, with its time with cold caches."""
    mine = Timings(candidate="fused", cold_us=(cold_us,) * rounds, notes=("CUDA graph: cannot be captured",))
    return replace(fabricate.won(), timings=(ORIGINAL, mine))


def words(contest: Contest) -> str:
    """All that the report says of them."""
    found = further_part(contest)
    assert found is not None
    return " ".join(found.words)


def test_columns_without_a_figure_are_left_out() -> None:
    """The table has what was measured; a missing figure is a dash, and its note says why."""
    found = further_part(with_cold(99.0))
    assert found is not None
    assert found.heads == ("Candidate", "Cold caches", "Cold ÷ original", "CUDA graph", "Host", "Note")
    assert found.rows[0] == ("original", "110 µs", "-", "40.0 µs", "95.0 µs", "")
    ratio = "0.900 (0.900 to 0.900)"
    assert found.rows[1] == ("fused", "99.0 µs", ratio, "-", "-", "CUDA graph: cannot be captured")
    assert further_part(fabricate.won()) is None


def test_a_winner_that_is_slower_with_cold_caches_is_named() -> None:
    """Where hot and cold disagree about who is faster the report says so; where they agree, or rounds lack, not."""
    assert "With cold caches fused is the slower one (1.100" in words(with_cold(121.0))
    assert "slower" not in words(with_cold(99.0))
    assert "slower" not in words(with_cold(121.0, rounds=5))
    lost = replace(with_cold(121.0), selection=fabricate.kept().selection)
    assert "slower" not in words(lost)


def test_who_is_bound_by_the_host_is_named() -> None:
    """Launching takes longer than the device works: 95 us against 40."""
    assert "original is bound by the host: launching takes 95.0 µs, the device is done in 40.0 µs." in words(
        with_cold(99.0)
    )
    quick = replace(ORIGINAL, host_us=5.0)
    assert words(replace(fabricate.won(), timings=(quick,))) == ""


def disagreeing() -> Profile:
    """A profile whose winner is slower with cold caches."""
    return fabricate.profile(with_cold(121.0), device="cuda")


@pytest.mark.parametrize("format", ["terminal", "md", "html"])
def test_every_report_shows_them_and_that_they_decide_nothing(format: Format | str) -> None:
    """Label, figures and the sentence are in each form."""
    text = terminal_text(disagreeing()) if format == "terminal" else render(disagreeing(), format)  # type: ignore[arg-type]
    text = " ".join(text.split())
    assert FURTHER in text
    assert "Cold ÷ original" in text
    assert "1.100 (1.100 to 1.100)" in text
    assert "is the slower one" in text


def test_the_table_has_a_row_a_candidate() -> None:
    """Medians, paired ratios and how many rounds; missing where there is none."""
    original, fused = frames.records(frames.timings(disagreeing()))
    assert (original["cold_us"], original["cold_ratio"], original["host_us"]) == (110.0, None, 95.0)
    assert (fused["cold_us"], fused["cold_rounds"], fused["graph_us"]) == (121.0, 9, None)
    assert fused["cold_ratio"] == pytest.approx(1.1)
    assert fused["notes"] == "CUDA graph: cannot be captured"


@pytest.mark.parametrize(
    "wrong",
    [Timings(candidate="nobody"), Timings(candidate="fused", cold_us=(0.0,)), Timings(candidate="fused", host_us=-1.0)],
)
def test_impossible_further_times_are_refused(wrong: Timings, tmp_path: Path) -> None:
    """A profile with the times of somebody who did not take part, or with a time of nothing, is no profile."""
    path = tmp_path / "profile.json"
    data = to_data(fabricate.profile(replace(fabricate.won(), timings=(wrong,))))
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ProfileError, match="further times of"):
        load_profile(path)
