"""What follows from a profile's figures: shares of time, dispatch, plots."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.report import fabricate, scenes
from twinkle_tune.kernel.dispatch import Choice, Rule
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.report.derive import WHOLE, fate, parts, rules_text, shapes
from twinkle_tune.report.images import images
from twinkle_tune.report.plot import labels
from twinkle_tune.report.plots import plots
from twinkle_tune.report.view import contest_part
from twinkle_tune.slot import Slot, SlotKind


def _at(rows: int, winner: str, source: str = "impl", kind: SlotKind = SlotKind.LAYER) -> Contest:
    base = fabricate.won()
    trials = tuple(replace(t, source=source) if t.candidate == "fused" else t for t in base.trials)
    chosen = replace(base.selection, winner=winner, ratio=1.0, low=1.0, high=1.0)
    return replace(
        base,
        slot=Slot(name="RMSNorm", kind=kind, target="package.module:RMSNorm"),
        workload=fabricate.workload((1, rows, 256)),
        trials=trials,
        selection=chosen,
    )


def test_parts_are_shares_times_ratios() -> None:
    """A slot's share shrinks by its winner's ratio; the whole step is measured and first; steps in their order."""
    table = parts(fabricate.normal())
    assert list(dict.fromkeys(table["step"])) == ["prefill 1x128", "decode 1x128"]
    prefill = table[table["step"] == "prefill 1x128"].set_index("slot")
    assert prefill.index[0] == WHOLE
    assert (prefill.loc[WHOLE, "before"], prefill.loc[WHOLE, "after"]) == (1.0, 0.92)
    assert list(prefill.loc["RMSNorm", ["before", "after"]]) == pytest.approx([0.4119, 0.8 * 0.4119])


@pytest.mark.parametrize(
    ("contest", "expected"),
    [
        (fabricate.won(), "won"),
        (fabricate.kept(), "kept"),
        (fabricate.all_rejected().contests[0], "all refused"),
        (replace(fabricate.won(), trials=(), selection=Selection(winner="original", reason="no time")), "not tried"),
        (
            replace(
                fabricate.kept(),
                selection=Selection(
                    winner="original", reason="no clear winner after 60 rounds", status="no clear winner"
                ),
            ),
            "no clear winner",
        ),
    ],
)
def test_fate(contest: Contest, expected: str) -> None:
    """Each end of a contest has its word."""
    assert fate(contest) == expected


def _rules(*contests: Contest) -> tuple[Rule, ...]:
    (found,) = shapes(fabricate.profile(*contests))
    return found.rules


def test_one_winner_everywhere_is_bound_everywhere() -> None:
    """A layer with one winner for all row counts has no thresholds, a function has those of what was measured."""
    assert rules_text(_rules(_at(8, "fused"), _at(64, "fused"))) == "every row count: fused"
    functions = [_at(rows, "fused", kind=SlotKind.FUNCTION) for rows in (8, 64)]
    assert rules_text(_rules(*functions)) == "8 to 64 rows: fused; else the original"


def test_thresholds_are_those_of_the_dispatcher() -> None:
    """Between two measured row counts the winner runs where both agree; what is compiled runs at its own counts."""
    mixed = _rules(_at(8, "fused"), _at(64, "fused"), _at(512, "original"))
    assert mixed == (Rule(low=8, high=64, winner=Choice(candidate="fused")),)
    compiled = _rules(_at(8, "fused", "compile"), _at(64, "fused", "compile"))
    assert compiled == tuple(Rule(low=n, high=n, winner=Choice(candidate="fused", rows=n)) for n in (8, 64))
    assert rules_text(()) == "every row count: the original"


def test_one_row_count_is_no_family() -> None:
    """A slot that was called with one row count has no speed against shape."""
    assert shapes(fabricate.normal()) == ()
    untried = replace(_at(64, "original"), trials=())
    assert shapes(fabricate.profile(_at(8, "fused"), untried)) == ()


ALL = {**fabricate.ALL, "gpu": scenes.large(12), "extreme": scenes.extreme()}


@pytest.mark.parametrize("profile", ALL.values(), ids=ALL)
def test_every_plot_has_rows_and_a_name_of_its_own(profile: Profile) -> None:
    """Whatever the profile, each plot has data and something to say to who cannot see it."""
    made = list(plots(profile))
    assert len({plot.name for plot in made}) == len(made)
    assert all(plot.rows and plot.title and plot.text for plot in made)


def test_a_contest_s_plot_orders_and_marks() -> None:
    """Fastest first, the original and the winner marked, the refused below with stage and reason."""
    (plot,) = [plot for plot in plots(fabricate.normal()) if plot.name == "contest-1"]
    assert [(row["name"], row["role"]) for row in plot.rows] == [
        ("fused", "winner"),
        ("original", "original"),
        ("slow", "other"),
        ("compile", "other"),
        ("wrong", "other"),
    ]
    assert plot.rows[3]["ratio"] is None
    assert plot.rows[3]["text"] == "refused, first call: RuntimeError: no compiler found"


def test_long_labels_stay_different() -> None:
    """Names that are cut to the same text are told apart."""
    made = labels([fabricate.LONG, fabricate.LONG + "_"], 20)
    assert len(set(made)) == 2


@pytest.mark.parametrize(("format", "start"), [("png", b"\x89PNG"), ("svg", b"<svg")])
def test_images_are_made_without_a_display(format: str, start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of plot becomes an image file, with no display set."""
    pytest.importorskip("vl_convert", reason="draws")
    monkeypatch.delenv("DISPLAY", raising=False)
    chosen = {plot.kind: plot for name in ("gpu", "hostile", "extreme") for plot in plots(ALL[name])}
    assert {"why", "timeline", "ratios", "parts", "shapes", "memory", "parity"} == chosen.keys()
    made = dict(images(chosen.values(), format))  # type: ignore[arg-type]
    assert len(made) == len(chosen)
    assert all(content.startswith(start) and len(content) > 1000 for content in made.values())
    if format == "svg":
        assert not any(b"<script" in content or b"<img" in content for content in made.values())


def test_a_candidate_s_time_is_its_ratio_of_the_original_s() -> None:
    """Who left in rounds that were slow for all is shown with its ratio times the original's median, in that order."""
    original = (150.0, 150.0, 150.0, *(100.0 for _ in range(9)))
    seen = fabricate.contest(
        fabricate.trial("original", fabricate.measurement(*original), "original"),
        fabricate.trial("early", fabricate.measurement(120.0, 120.0, 120.0, left_race="not 2% faster")),
        fabricate.trial("late", fabricate.measurement(*(0.9 * time_us for time_us in original))),
        selection=Selection(winner="original", rounds=12, reason="no clear winner", status="no clear winner"),
    )
    runners = contest_part(1, seen).runners
    assert [(r.candidate, r.time, r.ratio.split()[0]) for r in runners] == [
        ("early", "80.0 µs", "0.800"),
        ("late", "90.0 µs", "0.900"),
        ("original", "100 µs", "1.000"),
    ]
