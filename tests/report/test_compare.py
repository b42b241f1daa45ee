"""What changed from one profile to another, and the page that shows several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.report import fabricate, scenes
from tests.report.browser import browser, opened
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.schema import Profile, StepResult
from twinkle_tune.report.compare import changes, lines, regressions, successive
from twinkle_tune.report.html import comparison_pieces
from twinkle_tune.report.versus import versus, versus_plots

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def _with_step(ratio: float, spread: float = 0.01, times_us: tuple[float, ...] = (1.0,)) -> Profile:
    step = StepResult(
        label="prefill",
        original_us=tuple(time / ratio for time in times_us),
        tuned_us=times_us,
        ratio=ratio,
        low=ratio - spread,
        high=ratio + spread,
    )
    return fabricate.profile(fabricate.won(), steps=(step,))


def _with_selection(selection: Selection) -> Profile:
    return fabricate.profile(replace(fabricate.won(), selection=selection), steps=())


def test_a_profile_is_the_same_as_itself() -> None:
    """No figure differs from itself."""
    for profile in fabricate.ALL.values():
        assert {change.kind for change in changes(profile, profile)} <= {"same"}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [(0.80, 0.85, "regression"), (0.85, 0.80, "gain"), (0.80, 0.815, "same"), (0.815, 0.80, "same")],
)
def test_only_intervals_apart_are_a_change(before: float, after: float, kind: str) -> None:
    """Slower or faster is what lies outside of the other's interval, and nothing else."""
    found = [change for change in changes(_with_step(before), _with_step(after)) if change.where == "step prefill"]
    assert [change.kind for change in found] == [kind]


def test_a_lost_winner_is_no_regression() -> None:
    """A slot that goes back to its original has lost its winner: whether the model is slower, its steps say."""
    kept = _with_selection(Selection(winner="original", rounds=8, reason="no candidate was at least 2% faster"))
    (change,) = changes(_with_selection(fabricate.won().selection), kept)
    assert (change.kind, change.winner_before, change.winner_after) == ("lost winner", "fused", "original")


def test_another_winner_as_fast_is_told() -> None:
    """The same speed by another kernel is no regression, but a change."""
    other = replace(fabricate.won().selection, winner="slow")
    (change,) = changes(_with_selection(fabricate.won().selection), _with_selection(other))
    assert change.kind == "winner changed"


def test_what_is_in_one_alone_is_new_or_gone() -> None:
    """Contests and steps without a counterpart are named as that, not compared."""
    bare = fabricate.profile(steps=())
    full = fabricate.normal()
    assert {change.kind for change in changes(bare, full)} == {"new"}
    assert {change.kind for change in changes(full, bare)} == {"gone"}


def test_what_a_run_did_not_come_to_is_no_regression() -> None:
    """A step that an interrupted run did not time, and a contest that was not tried, are gone, not slower."""
    full = fabricate.profile(fabricate.won(), steps=fabricate.normal().steps[:1])
    untried = replace(fabricate.won(), trials=(), selection=Selection(winner="original", reason="not tried"))
    cut = fabricate.profile(untried, steps=(StepResult(label="prefill 1x128"),), complete=False)
    assert {change.kind for change in changes(full, cut)} == {"gone"}


def test_times_are_compared_on_one_machine_alone() -> None:
    """With equal ratios, doubled times are a regression where the environments are equal, and nothing elsewhere."""
    times = tuple(100.0 + index for index in range(20))
    before, after = _with_step(0.8, times_us=times), _with_step(0.8, times_us=tuple(2 * time for time in times))
    (found,) = regressions(changes(before, after))
    assert (found.measure, found.where) == ("time_us", "step prefill")
    assert found.before is not None
    assert found.before.ratio == pytest.approx(109.5)
    elsewhere = replace(after, environment=replace(after.environment, torch="2.14.0"))
    assert regressions(changes(before, elsewhere)) == ()


def test_regressions_come_first() -> None:
    """What a reader must see first is first."""
    _, before, after = scenes.versions()
    kinds = [change.kind for change in changes(before, after)]
    assert kinds[:2] == ["regression", "regression"]
    assert set(kinds[2:]) == {"same"}


def test_versions_are_of_one_device() -> None:
    """Profiles of one model, mode and device follow each other by date; another device is not compared."""
    first, second, third = scenes.versions()
    found = lines([third, fabricate.normal(), first, second])
    assert [[number for number, _ in line.profiles] for line in found] == [[3, 4, 1], [2]]
    assert [(old, new) for old, new, _ in successive(found[0])] == [(3, 4), (4, 1)]


def test_versus_names_each_regression() -> None:
    """Three versions: the two regressions of the last stand at the top, with their figures and profiles."""
    shown = versus(scenes.versions(), ["a", "b", "c"])
    assert [line.where for line in shown.alarms] == ["step prefill 1x128", "RMSNorm float32[1,128,256]"]
    assert {(line.old, line.new) for line in shown.alarms} == {(2, 3)}
    assert shown.verdict.startswith("2 regressions")


def test_different_devices_stand_side_by_side() -> None:
    """Two devices are shown next to each other, and no difference between them is called a regression."""
    slower = replace(fabricate.normal(), steps=())
    shown = versus([scenes.versions()[1], slower], ["gpu", "cpu"])
    assert shown.alarms == ()
    assert "nothing is called a regression" in shown.verdict
    assert [len(row.cells) for row in (*shown.steps, *shown.contests)] == [2] * (len(shown.steps) + len(shown.contests))


def test_a_trend_needs_three_versions() -> None:
    """Three versions make a trend, in which the regression is marked; two do not."""
    plots = {plot.name: plot for plot in versus_plots(scenes.versions())}
    assert [row["name"] for row in plots["trend-1"].rows if row["slower"]] == ["prefill 1x128"]
    assert "trend-1" not in {plot.name for plot in versus_plots(scenes.versions()[:2])}


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    """One browser for all tests here."""
    with browser() as made:
        yield made


PAGES = {
    "versions": scenes.versions(),
    "devices": (fabricate.normal(), scenes.versions()[2]),
    "hostile": (fabricate.hostile(), replace(fabricate.hostile(), created="2026"), fabricate.empty()),
}


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_comparison_page_reads_well(running: Browser, tmp_path: Path, name: str, width: int) -> None:
    """In a browser: no complaint, marks in every plot, no overflow, nothing for axe-core, regressions in sight."""
    path = tmp_path / "page.html"
    pieces = comparison_pieces(PAGES[name], [fabricate.HOSTILE, "b", "c"][: len(PAGES[name])])
    path.write_text("".join(pieces), encoding="utf-8")
    with opened(running, path, width) as seen:
        alarm = seen.page.locator(".alarm")
        assert alarm.count() == (name == "versions")
        if alarm.count():
            box = alarm.bounding_box()
            assert box is not None
            assert box["y"] < 300  # without scrolling
            assert "regression" in seen.page.locator(".alarm h2").inner_text()
        seen.scroll_through()
        assert all(seen.marks().values())
        assert seen.too_wide() == []
        assert seen.violations() == []
