"""Shares are made of the times that stand beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.report import fabricate
from twinkle_tune.mode import Mode
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Contest, Profile, Seen, StepResult, TimedOn
from twinkle_tune.profile.shares import doubts, original_us, step_us, with_shares
from twinkle_tune.report import head
from twinkle_tune.report.amdahl import amdahl
from twinkle_tune.slot import Slot, SlotKind

SHIPPED = sorted(Path(__file__).parents[2].glob("profiles/*/*.json"))


def _of(contest: Contest, step: StepResult, mode: Mode = Mode.INFERENCE) -> Profile:
    seen = (Seen(step=step.label, calls=4, share=0.5),)
    return fabricate.profile(replace(contest, seen=seen), steps=(step,), mode=mode)


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
def test_a_share_is_calls_times_median_over_the_step(mode: Mode) -> None:
    """Of the compared step where there is one, else of its runs before the contests; in training with the backward."""
    alone = StepResult(label="s", alone_us=(2000.0, 4000.0, 9000.0))
    made = with_shares(_of(fabricate.won(), alone, mode))
    assert made.contests[0].seen[0].share == pytest.approx(4 * 103.5 / 4000, abs=1e-4)
    compared = replace(alone, original_us=(1000.0, 1100.0), tuned_us=(900.0, 1000.0))
    made = with_shares(_of(fabricate.won(), compared, mode))
    assert made.contests[0].seen[0].share == pytest.approx(4 * 103.5 / 1050, abs=1e-4)
    assert with_shares(made) == made


def test_without_times_a_share_stays_as_it_was_seen() -> None:
    """No time of the step, no time of the original, a block's times, or a compile mode: nothing better is known."""
    step = StepResult(label="s", alone_us=(1000.0,))
    untimed = replace(fabricate.won(), trials=())
    block = replace(fabricate.won(), timed_on=TimedOn(block="Layer", path="0", calls=2))
    for profile in (
        _of(fabricate.won(), StepResult(label="s")),
        _of(untimed, step),
        _of(block, step),
        _of(fabricate.won(), step, Mode.COMPILE),
    ):
        assert with_shares(profile).contests[0].seen[0].share == 0.5


def _layer(name: str, paths: tuple[str, ...], call_us: float, share: float, calls: int = 1) -> Contest:
    """A contest of a layer that the original kept, with its time and the share that it had in the running model."""
    return replace(
        fabricate.kept(),
        slot=Slot(name=name, kind=SlotKind.LAYER if paths else SlotKind.FUNCTION, target="package.module:Any"),
        instances=paths,
        seen=(Seen(step="s", calls=calls, share=share),),
        trials=(fabricate.trial("original", fabricate.measurement(call_us, call_us, call_us), "original"),),
    )


def _in_step(*contests: Contest, step_us: float = 100.0, mode: Mode = Mode.INFERENCE) -> Profile:
    return fabricate.profile(*contests, steps=(StepResult(label="s", alone_us=(step_us,)),), mode=mode)


def _shares(profile: Profile) -> list[float]:
    return [contest.seen[0].share for contest in with_shares(profile).contests]


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
def test_times_that_come_to_more_than_the_step_are_no_shares(mode: Mode) -> None:
    """One slot of 260%, or two of 60% side by side: each share of the step is the one of the running model."""
    alone = _in_step(_layer("MLP", ("a.mlp",), 130.0, 0.386, calls=2), _layer("Norm", ("a.n",), 5.0, 0.01), mode=mode)
    assert _shares(alone) == [0.386, 0.01]
    beside = _in_step(_layer("MLP", ("a.mlp",), 60.0, 0.4), _layer("Attn", ("a.attn",), 60.0, 0.5), mode=mode)
    assert _shares(beside) == [0.4, 0.5]
    (doubt,) = doubts(beside)
    assert (doubt.slot, doubt.is_impossible) == ("MLP", True)
    assert doubt.together == pytest.approx(1.2)
    assert any("slots come to 120.0% of s" in note and "(MLP: 40.0%)" in note for note in head.notes(beside))


def test_slots_within_one_another_may_come_to_more_than_the_step() -> None:
    """An MLP in a block, and a function that may be called in either, count once: their times stand."""
    nested = (_layer("Block", ("a",), 90.0, 0.9), _layer("MLP", ("a.mlp",), 60.0, 0.6), _layer("act", (), 30.0, 0.3))
    assert _shares(_in_step(*nested)) == [0.9, 0.6, 0.3]
    assert not list(doubts(_in_step(*nested)))
    apart = replace(nested[1], instances=("b.mlp",))
    assert _shares(_in_step(nested[0], apart, nested[2])) == [0.9, 0.6, 0.3], "as they were seen"
    assert [doubt.is_impossible for doubt in doubts(_in_step(nested[0], apart, nested[2]))] == [True]


def test_exactly_the_whole_step_is_possible() -> None:
    """100% is; a hair more falls back to what was seen, and is no cause for doubt by itself."""
    assert _shares(_in_step(_layer("Block", ("a",), 100.0, 0.97))) == [1.0]
    assert _shares(_in_step(_layer("Block", ("a",), 101.0, 0.97))) == [0.97]
    assert not list(doubts(_in_step(_layer("Block", ("a",), 101.0, 0.97))))


def test_shares_far_apart_are_doubted() -> None:
    """75% by the times against 38.6% in the running model is said; in training the latter is the forward's alone."""
    far = _layer("MLP", ("a.mlp",), 75.0, 0.386)
    assert _shares(_in_step(far)) == [0.75], "what the times beside it say"
    (doubt,) = doubts(_in_step(far))
    assert (doubt.in_model, doubt.timed, doubt.is_impossible) == (0.386, 0.75, False)
    assert any("38.6% while the model ran, 75.0% by the times" in note for note in head.notes(_in_step(far)))
    assert not list(doubts(_in_step(far, mode=Mode.TRAIN)))
    assert not list(doubts(_in_step(_layer("MLP", ("a.mlp",), 50.0, 0.386)))), "11 points are noise"
    assert not list(doubts(_in_step(_layer("Norm", ("a.n",), 2.0, 0.007)))), "a small share times three is small"


def test_the_share_of_the_running_model_is_kept(tmp_path: Path) -> None:
    """Shares made again from a saved profile are the same, whichever of the two they are; an older file's are made."""
    for call_us in (75.0, 130.0):
        made = with_shares(_in_step(_layer("MLP", ("a.mlp",), call_us, 0.386)))
        read = load_profile(made.save(tmp_path / "p.json"))
        assert with_shares(read) == made
        seen = (Seen(step="s", calls=1, share=0.386),)  # as they stood before the other share stood beside them
        older = replace(made, contests=tuple(replace(contest, seen=seen) for contest in made.contests))
        assert load_profile(older.save(tmp_path / "older.json")) == made
        assert list(doubts(read)) == list(doubts(_in_step(_layer("MLP", ("a.mlp",), call_us, 0.386))))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_shipped_report_contradicts_its_times(path: Path) -> None:
    """What a step's slots cover is at least the largest share that its contests' times say, and what it gained."""
    profile = load_profile(path)
    if profile.mode.compiles:
        return
    for step in profile.steps:
        whole_us = step_us(step)
        covered = amdahl(profile, step).covered
        for contest in profile.contests:
            call_us = original_us(contest)
            for seen in contest.seen if call_us is not None and whole_us is not None else ():
                if seen.step == step.label and contest.instances != ("",):
                    assert covered >= min(1.0, seen.calls * (call_us or 0.0) / (whole_us or 1.0)) - 1e-3
        assert covered >= (1 - step.ratio if step.tuned_us and covered else 0.0)
