"""Objectives end to end: a loss in chunks that is far smaller and slower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tune import losses
from tests.tune.losses import LOGITS_BYTES, Tagger, chunked, inputs, linear_cross_entropy
from twinkle_tune import kernelized, tune_model
from twinkle_tune.errors import ObjectiveError
from twinkle_tune.kernel import Registry, register_external_layer, register_function_kernel, register_layer_kernel
from twinkle_tune.measure import cpu_memory
from twinkle_tune.measure.settings import RaceSettings
from twinkle_tune.objective import Objective
from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.report.compare import changes, lines, regressions
from twinkle_tune.report.render import Format, render
from twinkle_tune.report.terminal import terminal_text
from twinkle_tune.report.versus import versus
from twinkle_tune.tune import settle
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.verify import Verification, verify_profile

FEW = RaceSettings(max_rounds=10, warmup_rounds=0)
SLOT = "tests.tune.losses.linear_cross_entropy"


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole model is timed for half a second."""
    monkeypatch.setattr(settle, "SECONDS", 0.5)


def registry() -> Registry:
    """One in which the chunks compete."""
    made = Registry()
    register_function_kernel(
        func_name="linear_cross_entropy", target_module="tests.tune.losses", func_impl=chunked, registry=made
    )
    return made


def tuned(known: Registry | None = None, **options: Any) -> Profile:
    """A profile of a training step."""
    torch.manual_seed(0)
    known = known or registry()
    return tune_model(Tagger(), inputs(), mode="train", registry=known, candidates=["impl"], settings=FEW, **options)


def loss_of(profile: Profile) -> Contest:
    """The contest of the loss."""
    (found,) = [contest for contest in profile.contests if contest.slot.name == SLOT]
    return found


def peak_of(contest: Contest, name: str) -> int:
    """A candidate's peak in bytes."""
    outcome = contest.trial(name).outcome
    assert isinstance(outcome, Measurement)
    assert outcome.peak_bytes is not None
    return outcome.peak_bytes


@pytest.fixture(scope="module")
def by_memory() -> Profile:
    """A profile by memory in which the chunks won."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "SECONDS", 0.5)
        return tuned(objective="memory")


def test_by_time_the_original_stays() -> None:
    """The chunks are right and slower: by time the original stays, and both peaks are told."""
    contest = loss_of(tuned())
    assert contest.selection.winner == "original"
    assert peak_of(contest, "original") > 2 * LOGITS_BYTES
    assert peak_of(contest, "impl:chunked") < LOGITS_BYTES / 2


def test_by_memory_the_chunks_win_and_the_step_gets_smaller(by_memory: Profile, tmp_path: Path) -> None:
    """By memory the smallest wins though it is slower, which the profile says plainly, and it is bound."""
    profile = load_profile(by_memory.save(tmp_path / "p.json"))
    assert profile == by_memory
    chosen, (step,) = loss_of(profile).selection, profile.steps
    assert (chosen.winner, str(profile.objective), profile.slowdown) == ("impl:chunked", "memory", None)
    assert chosen.memory_ratio is not None
    assert chosen.memory_ratio < 0.2
    assert 1 < chosen.low <= chosen.ratio <= chosen.high
    assert "more time" in chosen.reason
    assert "timed again in other memory" in chosen.reason
    assert step.original_peak_bytes is not None
    assert step.tuned_peak_bytes is not None
    assert step.original_peak_bytes - step.tuned_peak_bytes > LOGITS_BYTES
    assert step.ratio > 1
    assert "of its peak memory and" in profile.verdict
    assert "no clear gain" not in profile.verdict
    model, (x, target) = Tagger(), inputs()
    with kernelized(model, mode="train", profile=profile, registry=registry()):
        assert losses.linear_cross_entropy is not linear_cross_entropy
        made = model(x, target)
    torch.testing.assert_close(made, model(x, target))


def test_balanced_keeps_the_original_where_it_is_too_slow() -> None:
    """Within a tenth more time the chunks are too slow: the original stays, and the reason says so."""
    contest = loss_of(tuned(objective="balanced", slowdown=1.1))
    assert contest.selection.winner == "original"
    assert contest.selection.reason.startswith("no candidate was clearly smaller within 1.1x the time")
    outcome = contest.trial("impl:chunked").outcome
    assert isinstance(outcome, Measurement)
    assert outcome.left_race.startswith("smaller, but not shown to take at most 1.1x the time")


def test_balanced_takes_the_smaller_within_a_loose_slowdown() -> None:
    """Within a hundred times the time they win, and the whole step is held to the same limit."""
    profile = tuned(objective="balanced", slowdown=100.0)
    assert loss_of(profile).selection.winner == "impl:chunked"
    assert profile.slowdown == 100.0
    assert profile.steps[0].high <= 100.0


def test_winners_without_which_the_step_needs_no_more_are_taken_back() -> None:
    """A layer's winner that is smaller by itself, slower, and nowhere near the step's peak does not stay."""
    known = registry()
    register_external_layer(losses.Scale, "Scale", registry=known)
    register_layer_kernel("Scale", layer_impl=losses.scaled_at_once, device="cpu", registry=known)
    profile = tuned(known, objective="memory")
    chosen = {contest.slot.name: contest.selection for contest in profile.contests}
    assert chosen[SLOT].winner == "impl:chunked"
    assert chosen["Scale"].winner == "original"
    assert chosen["Scale"].reason.startswith("taken back: without it no step of the whole model needs more memory")
    scaled = next(contest for contest in profile.contests if contest.slot.name == "Scale")
    assert peak_of(scaled, "impl:scaled_at_once") < peak_of(scaled, "original")


def test_a_worker_process_selects_by_the_same_objective() -> None:
    """The objective travels with the task, and the second race is in another process."""
    with Isolated() as executor:
        profile = tuned(objective="memory", executor=executor)
    chosen = loss_of(profile).selection
    assert chosen.winner == "impl:chunked"
    assert chosen.memory_ratio is not None
    assert "in another process" in chosen.reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_by_memory_the_chunks_win_on_a_gpu() -> None:
    """Where torch's allocator tells the peak of the device, the smallest wins there, too."""
    torch.manual_seed(0)
    made = tune_model(
        Tagger().cuda(),
        tuple(each.cuda() for each in inputs()),
        mode="train",
        registry=registry(),
        candidates=["impl"],
        settings=FEW,
        objective="memory",
    )
    chosen, (step,) = loss_of(made).selection, made.steps
    assert chosen.winner == "impl:chunked"
    assert chosen.memory_ratio is not None
    assert chosen.memory_ratio < 0.5
    assert step.original_peak_bytes is not None
    assert step.tuned_peak_bytes is not None
    assert step.tuned_peak_bytes < step.original_peak_bytes


def verified(profile: Profile) -> Verification:
    """The profile held against now."""
    torch.manual_seed(0)
    return verify_profile(profile, Tagger(), inputs(), registry=registry())


def test_verify_judges_by_the_profile_s_own_objective(by_memory: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A winner by memory that is slower holds; one that is no longer smaller does not; by time it would be slow."""
    held = verified(by_memory)
    assert held.holds
    (check,) = held.checks
    assert check.ratio is not None
    assert check.ratio > 1
    assert check.memory_ratio == by_memory.winners[0].selection.memory_ratio
    tight = replace(by_memory, objective=Objective.BALANCED, slowdown=1.05)
    assert [p.kind for p in verified(tight).checks[0].problems] == ["slow"]
    monkeypatch.setitem(losses.MOOD, "large", True)
    (problem,) = verified(by_memory).checks[0].problems
    assert problem.kind == "large"
    assert problem.text.startswith("not clearly smaller: ")


def test_diff_judges_by_the_profiles_objective(by_memory: Profile) -> None:
    """More time is no regression by memory and more memory is one; balanced, time beyond the slowdown is, too."""
    (step,) = by_memory.steps
    by_memory = replace(by_memory, steps=(replace(step, ratio=2.0, low=1.9, high=2.1),))
    slower = replace(by_memory, steps=(replace(step, ratio=4.0, low=3.9, high=4.1),))
    assert not regressions(changes(by_memory, slower))
    larger = replace(by_memory, steps=(replace(step, tuned_peak_bytes=step.original_peak_bytes),))
    (change,) = regressions(changes(by_memory, larger))
    assert (change.where, change.measure) == ("step train", "memory")
    assert change.text.startswith("memory 0.")
    assert change.text.endswith(" → 1.000")
    for slowdown, regressed in ((3.0, ["ratio"]), (5.0, [])):
        before, after = (replace(p, objective=Objective.BALANCED, slowdown=slowdown) for p in (by_memory, slower))
        assert [change.measure for change in regressions(changes(before, after))] == regressed
    assert len(lines([by_memory, before])) == 2


def test_side_by_side_the_step_has_both_figures(by_memory: Profile) -> None:
    """Among several profiles a step that became smaller is a gain, with its memory, though it takes longer."""
    cell = versus([by_memory, by_memory], ["a.json", "b.json"]).steps[0].cells[0]
    assert cell.tone == "gain"
    assert cell.detail.startswith("memory 0.")


@pytest.mark.parametrize("form", ["html", "md"])
def test_reports_say_the_objective_and_both_figures(by_memory: Profile, form: Format) -> None:
    """The objective stands in the title; the step says how much less memory and how much more time."""
    text = render(by_memory, form)
    assert "Tagger, train, cpu, by memory" in text
    assert "less memory, " in text
    assert "more time" in text
    assert "no clear gain" not in text


def test_the_terminal_says_the_objective_and_both_figures(by_memory: Profile) -> None:
    """As the other reports; the call to repeat names the objective."""
    text = terminal_text(by_memory, width=140)  # in a narrow terminal the columns that explain give way
    assert "by memory" in text
    assert "Peak memory" in text
    assert "objective='memory'" in text


def test_a_bad_objective_is_refused_before_anything_runs() -> None:
    """An unknown objective, or a slowdown that does not go with it, is an error; the model is not called."""
    bad: list[dict[str, Any]] = [
        {"objective": "space"},
        {"slowdown": 1.2},
        {"objective": "balanced", "slowdown": 0.5},
    ]
    for options in bad:
        with pytest.raises(ObjectiveError, match="expected"):
            tune_model(nn.Linear(1, 1), "no inputs at all", **options)


def test_memory_that_nobody_tells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the peak cannot be known, an objective of memory is an error that says so; time is none."""
    monkeypatch.setattr(cpu_memory, "_enable", None)
    with pytest.raises(ObjectiveError, match="does not tell the peak memory on cpu"):
        tuned(objective="memory")
    assert loss_of(tuned()).trials[0].outcome.peak_bytes is None  # type: ignore[union-attr]
