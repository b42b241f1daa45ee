"""Shares are made of the times that stand beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.report import fabricate
from twinkle_tune.mode import Mode
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Contest, Profile, Seen, StepResult, TimedOn
from twinkle_tune.profile.shares import original_us, step_us, with_shares
from twinkle_tune.report.amdahl import amdahl

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


def test_more_than_the_whole_is_the_whole() -> None:
    """Calls that are slower alone than in the model take no more than the step."""
    made = with_shares(_of(fabricate.won(), StepResult(label="s", alone_us=(100.0,))))
    assert made.contests[0].seen[0].share == 1.0


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
