"""A step as a timeline, as one bar, and as a Chrome trace."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.report import fabricate
from twinkle_tune.cli.app import run
from twinkle_tune.outcome import Selection, Status
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Profile, Seen
from twinkle_tune.report import charts
from twinkle_tune.report.pictures import why_parts
from twinkle_tune.report.plots import plots
from twinkle_tune.report.trace import AFTER, BEFORE, OUTSIDE, spans, trace_text

SHIPPED = sorted((Path(__file__).parents[2] / "profiles").glob("*/*.json"))


def nested() -> Profile:
    """A norm inside a block: the block takes half of the prefill."""
    block = replace(
        fabricate.kept(),
        instances=("model.layers.0", "model.layers.1", "model.layers.2", "model.layers.3"),
        seen=(Seen(step="prefill 1x128", calls=4, share=0.5),),
    )
    return fabricate.profile(replace(fabricate.won(), seen=(Seen(step="prefill 1x128", calls=4, share=0.125),)), block)


@pytest.mark.parametrize("profile", [fabricate.normal(), nested(), *map(load_profile, SHIPPED)])
def test_the_parts_of_a_step_fill_it_without_overlap(profile: Profile) -> None:
    """On each lane the outer parts follow each other from 0 to the step's end; inner ones lie within an outer one."""
    for step in profile.steps:
        found = spans(profile, step)
        assert {span.lane for span in found} == ({BEFORE, AFTER} if step.tuned_us else {BEFORE} if found else set())
        for lane in (BEFORE, AFTER):
            outer = [span for span in found if span.lane == lane and span.depth == 0]
            for one, other in pairwise(outer):
                assert other.start_us == pytest.approx(one.start_us + one.length_us)
            for inner in (span for span in found if span.lane == lane and span.depth == 1):
                assert any(
                    o.start_us - 1e-6 <= inner.start_us
                    and inner.start_us + inner.length_us <= o.start_us + o.length_us + 1e-6
                    for o in outer
                )


def test_a_slot_inside_another_is_drawn_inside_it() -> None:
    """The norm lies in the block, and what no slot holds comes last."""
    found = [span for span in spans(nested(), nested().steps[0]) if span.lane == BEFORE]
    assert [span.depth for span in found] == [0, 1, 0]
    assert found[-1].name == OUTSIDE


@pytest.mark.parametrize("profile", [fabricate.normal(), fabricate.hostile(), *map(load_profile, SHIPPED)])
def test_trace_is_one_that_viewers_open(profile: Profile) -> None:
    """JSON with traceEvents: complete events with times in microseconds, and names of processes and threads."""
    data = json.loads(trace_text(profile))
    slices = [event for event in data["traceEvents"] if event["ph"] == "X"]
    named = {(e["pid"], e["tid"]) for e in data["traceEvents"] if e["ph"] == "M" and e["name"] == "thread_name"}
    assert {(event["pid"], event["tid"]) for event in slices} == named
    assert all(event["dur"] >= 0 and event["ts"] >= 0 and event["args"] for event in slices)
    assert bool(slices) == any(step.original_us for step in profile.steps)


def test_trace_is_a_format_of_the_report(tmp_path: Path) -> None:
    """report --format trace writes it, into a folder as NAME.trace.json."""
    saved = fabricate.normal().save(tmp_path / "p.json")
    assert run(["report", str(saved), "--format", "trace", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "p.trace.json").read_text(encoding="utf-8"))["traceEvents"]


def test_the_bar_names_the_parts_that_are_there() -> None:
    """Its legend has "undecided" only where something is; each part keeps its colour."""
    ends: tuple[tuple[Status, bool], ...] = (("kept", False), ("no clear winner", True))
    for status, is_there in ends:
        ended = replace(fabricate.kept(), selection=Selection(winner="original", reason="-", status=status))
        (bar,) = [plot for plot in plots(fabricate.profile(fabricate.won(), ended)) if plot.kind == "why"]
        made = charts.spec("why", list(bar.rows), on_page=True)
        colour = made["layer"][0]["encoding"]["color"]
        assert colour["scale"]["domain"] == list(charts.WHY)
        assert ("undecided" in colour["legend"]["values"]) is is_there
        assert colour["legend"]["values"] == charts.series("why", bar.rows)


def test_the_bar_adds_up_and_tells_undecided_from_kept() -> None:
    """Saved, kept, undecided and outside are the whole step; a contest without a clear winner is undecided."""
    unclear = replace(
        fabricate.kept(),
        selection=Selection(winner="original", reason="no clear winner after 60 rounds", status="no clear winner"),
    )
    profile = fabricate.profile(fabricate.won(), unclear)
    saved, kept, undecided, outside = why_parts(profile, profile.steps[0])
    assert saved + kept + undecided + outside == pytest.approx(1)
    assert saved > 0
    assert (kept, undecided > 0) == (0, True)
    for path in SHIPPED:
        shipped = load_profile(path)
        assert all(sum(why_parts(shipped, step)) == pytest.approx(1) for step in shipped.steps)
