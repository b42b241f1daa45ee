"""How much of a step the slots cover, what was gained, what is left."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.report import fabricate
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.schema import Contest, Profile, Seen, StepResult
from twinkle_tune.report import frames
from twinkle_tune.report.amdahl import amdahl, amdahl_text
from twinkle_tune.report.render import Format, render
from twinkle_tune.report.terminal import terminal_text
from twinkle_tune.slot import ATTENTION, Slot, SlotKind

STEP = StepResult(label="s", original_us=(100.0,) * 9, tuned_us=(93.0,) * 9, ratio=0.93, low=0.92, high=0.94)


def contest(name: str, share: float, ratio: float = 1.0, paths: tuple[str, ...] = (), step: str = "s") -> Contest:
    """A contest of a share of the step as it was seen, won with a ratio; kept by the original where that is 1."""
    won = Selection(winner="fused", ratio=ratio, low=ratio, high=ratio, rounds=9, reason="")
    return replace(
        fabricate.won(),
        slot=Slot(name=name, kind=SlotKind.LAYER if paths else SlotKind.FUNCTION, target="package.module:Any"),
        instances=paths,
        seen=(Seen(step=step, calls=1, share=share),),
        trials=(),  # times would say what the share is
        selection=won if ratio != 1 else Selection(winner="original", reason="no"),
    )


def of(*contests: Contest, step: StepResult = STEP) -> Profile:
    """A profile of these contests and one step."""
    return fabricate.profile(*contests, steps=(step,))


def test_slots_side_by_side_add_up() -> None:
    """Covered are all, promised is what the winners save by their ratios, gained is what was measured."""
    profile = of(
        contest("Norm", 0.2, 0.75, ("a.norm",)), contest("MLP", 0.4, paths=("a.mlp",)), contest("rope", 0.1, 0.5)
    )
    found = amdahl(profile, STEP)
    assert found.covered == pytest.approx(0.7)
    assert found.promised == pytest.approx(0.2 * 0.25 + 0.1 * 0.5)
    assert found.gained == pytest.approx(0.07)
    assert found.left == pytest.approx(0.6)


def test_a_slot_inside_another_counts_once() -> None:
    """Of four activations three lie in MLPs that are slots: a quarter of their share is covered beside them."""
    inner = contest("Act", 0.2, paths=("a.mlp.act", "b.mlp.act", "c.mlp.act", "head.act"))
    outer = contest("MLP", 0.5, paths=("a.mlp", "b.mlp", "c.mlp"))
    assert amdahl(of(inner, outer), STEP).covered == pytest.approx(0.55)
    beside = contest("MLP", 0.5, paths=("a.mlp2", "b", "c.ml"))
    lying = amdahl(of(contest("Act", 0.2, paths=("a.mlp.act",)), beside), STEP)
    assert lying.covered == pytest.approx(0.7), "a path that only begins alike is another place"


def test_what_another_step_calls_is_not_of_this_one() -> None:
    """A contest that the step does not call covers nothing of it, and the attention's slot is the whole model."""
    other = contest("Norm", 0.9, 0.5, ("a.norm",), step="t")
    assert amdahl(of(other), STEP).covered == 0.0
    assert amdahl_text(of(other), STEP) == ""
    attention = contest(ATTENTION, 1.0, 0.9, ("",))
    found = amdahl(of(attention, contest("MLP", 0.4, paths=("a.mlp",))), STEP)
    assert found.covered == pytest.approx(0.4)
    assert found.promised == pytest.approx(0.1)


def test_the_line_says_covered_gained_and_left() -> None:
    """In words, with the measured interval's reading; in training it says whose time the shares are."""
    profile = of(contest("Norm", 0.2, 0.75, ("a.norm",)), contest("MLP", 0.4, paths=("a.mlp",)))
    assert amdahl_text(profile, STEP) == (
        "60.0% of this step is replaceable. Predicted from single slots: 5.0% faster. Measured on the whole model: "
        "7.0% faster."
    )
    kept = StepResult(label="s")
    untried = contest("MLP", 0.4, paths=("a.mlp",))
    done = replace(untried, selection=replace(untried.selection, status="kept"))
    assert amdahl_text(of(done, step=kept), kept) == (
        "40.0% of this step is replaceable. The original runs in all of it."
    )
    assert amdahl_text(of(untried, step=kept), kept) == "40.0% of this step is replaceable."
    slower = of(contest("Norm", 0.2, 1.25, ("a.norm",)))
    assert "Predicted from single slots: 5.0% slower." in amdahl_text(slower, STEP)
    trained = replace(of(contest("MLP", 0.4, paths=("a.mlp",)), step=kept), mode=Mode.TRAIN)
    assert "by the time of its forward alone" in amdahl_text(trained, kept)
    assert "forward alone" not in amdahl_text(replace(profile, mode=Mode.TRAIN), STEP)


def test_what_was_gained_was_covered() -> None:
    """A measured gain beyond the sum of the calls' times is no gain outside of them."""
    found = amdahl(of(contest("Norm", 0.02, 0.5, ("a.norm",))), STEP)
    assert [found.covered, found.gained] == pytest.approx([0.07, 0.07])


@pytest.mark.parametrize("format", ["terminal", "md", "html"])
def test_every_report_has_the_line(format: Format | str) -> None:
    """Each form says it for each step; the tables have the figures."""
    profile = fabricate.normal()
    text = terminal_text(profile) if format == "terminal" else render(profile, format)  # type: ignore[arg-type]
    text = " ".join(text.split())
    assert "61.5% of this step is replaceable." in text
    assert text.count("of this step is replaceable") == 2
    rows = frames.records(frames.steps(profile))
    assert [row["covered"] for row in rows] == pytest.approx([0.6149, 0.125])
    assert rows[0]["promised"] == pytest.approx(0.4119 * 0.2)
