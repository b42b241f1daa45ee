"""Where the time of a run goes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.report import fabricate
from tests.tune.test_tune import registry_of
from tests.tune.toy import QUICK, Two, norm
from twinkle_tune import load_profile, tune_model
from twinkle_tune.contest.events import RoundTimed, TrialStarted
from twinkle_tune.profile.run import RunFacts, RunSpan
from twinkle_tune.profile.schema import StepResult
from twinkle_tune.report.html import html_pieces
from twinkle_tune.report.markdown import markdown_text
from twinkle_tune.report.run_time import phase_lines
from twinkle_tune.report.terminal import terminal_text
from twinkle_tune.tune.events import (
    Captured,
    ContestFinished,
    ContestStarted,
    StepChecked,
    StepFinished,
    StepStarted,
    WaysTimed,
    WinnerTimedAgain,
)
from twinkle_tune.tune.spans import Spans

ROUND = RoundTimed(number=1, alive=2, best="b", ratio=0.9)
FOUND = Captured(candidates=(2,), steps=("s",), uncalled=(), whole_s=1.0)
BEGUN = ContestStarted(index=1, slot="a.b.Norm", call="f32[1]", candidates=("original", "b"))
OVER = ContestFinished(index=1, contest=fabricate.won())


def heard(events: Sequence[tuple[float, Any]]) -> list[tuple[str, str, float, float]]:
    """What a run's time went into that told these events, each after so many seconds."""
    ends = itertools.accumulate((seconds for seconds, _ in events), initial=10.0)
    moments = iter([*ends, 10.0 + sum(seconds for seconds, _ in events) + 2.0])
    spans = Spans(lambda: next(moments))
    for _, event in events:
        spans(event)
    return [(each.phase, each.name, each.begin_s, each.took_s) for each in spans.so_far()]


def test_each_moment_belongs_to_what_is_told_next() -> None:
    """A contest's candidates, its race and the winner's second one are told apart; nothing is counted twice."""
    again, step = WinnerTimedAgain(candidate="b"), StepResult(label="s")
    told = heard(
        [
            (3.0, FOUND), (0.0, BEGUN), (1.0, TrialStarted(candidate="original")), (2.0, TrialStarted(candidate="b")),
            (4.0, ROUND), (1.0, ROUND), (1.0, again), (1.5, ROUND), (0.5, OVER), (0.01, StepStarted(label="s")),
            (5.0, StepFinished(result=step)), (6.0, WaysTimed(label="s", compiled=())),
            (1.0, StepChecked(label="s", disagreement="")),
        ]
    )  # fmt: skip
    assert told == [
        ("capture", "", 0.0, 3.0),
        ("candidates", "Norm f32[1]", 3.0, 7.0),
        ("race", "Norm f32[1]", 10.0, 2.0),
        ("second race", "Norm f32[1]", 12.0, 2.0),
        ("whole model", "s", 14.0, 5.0),
        ("ways", "s", 19.0, 6.0),
        ("whole model", "s", 25.0, 1.0),
        ("rest", "", 26.0, 2.0),
    ]


def test_a_runner_up_races_after_all_contests() -> None:
    """Rounds outside of any contest are somebody's second race."""
    assert heard([(1.0, FOUND), (2.0, ROUND)])[1] == ("second race", "", 1.0, 2.0)


def test_a_profile_says_where_its_time_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a real run: spans follow each other, fill the run, and are read as they were written."""
    monkeypatch.setattr("twinkle_tune.tune.spans._LEAST_S", 0.0)  # on a fast machine its races are over in less
    profile = tune_model(Two(), torch.randn(4, 16), registry=registry_of(norm), settings=QUICK)
    assert profile.run is not None
    spans = profile.run.spans
    assert {"candidates", "race"} <= {each.phase for each in spans}
    assert all(
        after.begin_s == pytest.approx(before.begin_s + before.took_s, abs=0.11)
        for before, after in itertools.pairwise(spans)
    )
    assert sum(each.took_s for each in spans) == pytest.approx(profile.run.took_s, abs=0.1 * profile.run.took_s + 0.5)
    assert load_profile(profile.save(tmp_path / "p.json")) == profile


def test_every_report_tells_it() -> None:
    """Phases in their order with time, share and what took longest; nothing of a profile that does not know."""
    spans = (
        RunSpan(phase="race", name="Norm f32[1]", begin_s=0.0, took_s=6.0),
        RunSpan(phase="capture", name="", begin_s=6.0, took_s=2.0),
        RunSpan(phase="race", name="MLP f32[1]", begin_s=8.0, took_s=12.0),
    )
    old = replace(fabricate.normal(), run=RunFacts(took_s=20.0))
    new = replace(old, run=RunFacts(took_s=20.0, spans=spans))
    assert [line.cells for line in phase_lines(new)] == [
        ("capture", "2 s", "10.0%", ""),
        ("race", "18 s", "90.0%", "MLP f32[1] 12 s, Norm f32[1] 6 s"),
    ]
    for text in (markdown_text, lambda each: "".join(html_pieces(each)), terminal_text):
        assert "Where the run" in text(new)
        assert "12 s, Norm" in text(new)
        assert "Where the run" not in text(old)
