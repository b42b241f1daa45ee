"""The training step that is timed is the user's whole step, the optimizer's part included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import pytest
import torch
from torch import nn

from tests.told import Told, told_clock
from tests.tune.test_confirm import always_fast
from tests.tune.toy import QUICK, Norm, norm
from twinkle_tune import tune_model
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.profile.schema import Profile
from twinkle_tune.report import frames
from twinkle_tune.report.terminal import terminal_text
from twinkle_tune.tune import settle, whole
from twinkle_tune.tune.events import Event, StepFinished, StepStarted

NORM_US, OPTIMIZER_US = 600.0, 1_500.0
"""What the clock is told that a norm takes, and an optimizer's step; a call of anything takes 100 µs."""

LAST = 20
"""Some calls that no round times, and a few of the rounds, which are 28 steps in all where none fails."""


class Long(Norm):
    """A norm that takes :data:`NORM_US`."""

    clock = Told()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) to (..., width)."""
        Long.clock.us += NORM_US
        return norm(self, x)


class Slow(torch.optim.SGD):
    """An optimizer whose step takes :data:`OPTIMIZER_US`."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Tells the clock first."""
        Long.clock.us += OPTIMIZER_US
        super().step(closure)


class Failing(torch.optim.SGD):
    """An optimizer that fails once its steps are :data:`LAST`."""

    steps = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Counts, and fails."""
        Failing.steps += 1
        if Failing.steps > LAST:
            raise RuntimeError("lost its state")
        Long.clock.us += OPTIMIZER_US


def tuned(model: nn.Module, optimizer: Any = True, mode: str = "train", **options: Any) -> Profile:
    """A profile with one contestant that wins."""
    registry = Registry()
    register_external_layer(Long, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=always_fast, device="cpu", registry=registry)
    x = torch.randn(8, 16)
    return tune_model(
        model, x, mode=mode, registry=registry, settings=QUICK, candidates=["impl"], optimizer=optimizer, **options
    )


@pytest.fixture(autouse=True)
def _told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Long, "clock", told_clock(monkeypatch))


def test_the_optimizers_step_is_in_the_time_of_both_sides() -> None:
    """A long optimizer is in each round of the original and of the tuned step, and makes the slots' shares small."""
    with_it, without = tuned(nn.Sequential(Long(16)), Slow), tuned(nn.Sequential(Long(16)), False)
    assert with_it.steps[0].optimizer == "Slow"
    assert without.steps[0].optimizer == ""
    assert min(*with_it.steps[0].original_us, *with_it.steps[0].tuned_us) > OPTIMIZER_US
    assert min(without.steps[0].tuned_us) < OPTIMIZER_US
    share, bare = (max(seen.share for c in each.contests for seen in c.seen) for each in (with_it, without))
    assert share < 0.6 * bare


def test_the_model_is_left_as_it_was_and_the_state_is_freed() -> None:
    """With AdamW, which is the default: weights bit by bit, no gradients, and no copy is alive after the run."""
    made: list[Any] = []

    def make(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(parameters)
        made.append((ref(optimizer), ref(parameters[0])))
        return optimizer

    layer = Long(16)
    with torch.no_grad():
        layer.weight[0] = -0.0
    before = layer.weight.detach().clone().view(torch.int32)
    profile = tuned(nn.Sequential(layer), make)
    assert torch.equal(layer.weight.detach().view(torch.int32), before)
    assert layer.weight.grad is None
    assert len(made) == 2, "one for the capture and one for the whole model: none during the contests"
    assert [each() for pair in made for each in pair] == [None] * 4
    assert profile.steps[0].optimizer == "AdamW"


def test_an_optimizer_that_is_lost_on_the_way_is_told() -> None:
    """No figure mixes rounds with it and rounds without; the profile and the report say that there was none."""
    before: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepStarted):
            before.append(Failing.steps)
            Failing.steps = 0

    Failing.steps = 0
    profile = tuned(nn.Sequential(Long(16)), Failing, on_event=listen)
    (step,) = profile.steps
    assert before[0] <= LAST < Failing.steps, "it failed in the middle of the timing"
    assert (step.optimizer, step.note) == ("", "without the optimizer's step: RuntimeError: lost its state")
    # Rounds from before it failed would be the first ones, and each of them would have it.
    assert min(*step.original_us[:2], *step.tuned_us[:2]) < OPTIMIZER_US
    assert f"{step.label} was timed without the optimizer's step" in " ".join(terminal_text(profile).split())


def test_reports_say_what_the_step_is_made_of() -> None:
    """The optimizer's name stands in the facts and in the table of steps; inference has none of it."""
    profile = tuned(nn.Sequential(Long(16)))
    assert "forward, backward and the step of AdamW" in " ".join(terminal_text(profile).split())
    assert [row["optimizer"] for row in frames.records(frames.steps(profile))] == ["AdamW"]
    inference = tuned(nn.Sequential(Long(16)), mode="inference")
    assert "Training step" not in terminal_text(inference)
    assert [row["optimizer"] for row in frames.records(frames.steps(inference))] == [None]


def test_a_winner_with_which_the_model_raises_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What raises only after many calls of the whole model costs the winner its place, and not the run."""
    time_steps = whole.time_steps

    def raising(model: nn.Module, steps: Any, profile: Profile, *args: Any, **kwargs: Any) -> Any:
        if profile.winners:
            raise RuntimeError("no workspace is left")
        return time_steps(model, steps, profile, *args, **kwargs)

    monkeypatch.setattr(settle, "time_steps", raising)
    found = tuned(nn.Sequential(Long(16)), mode="inference")
    (contest,) = found.contests
    assert (contest.selection.winner, contest.status) == ("original", "taken back")
    assert "the whole model raised RuntimeError: no workspace is left" in contest.selection.reason
    assert found.complete


@pytest.mark.parametrize("kind", [StepStarted, StepFinished])
def test_a_listener_s_own_error_is_no_winner_s(kind: type[Event]) -> None:
    """It comes out as it is, at once: an error that could be one by chance, too, after which work is done once more."""
    own, told = MemoryError("no room for my plot"), list[Event]()

    def listen(event: Event) -> None:
        told.append(event)
        if isinstance(event, kind):
            raise own

    with pytest.raises(MemoryError) as caught:
        tuned(nn.Sequential(Long(16)), mode="inference", on_event=listen)
    assert caught.value is own
    assert isinstance(told[-1], kind)
    assert sum(isinstance(event, kind) for event in told) == 1
