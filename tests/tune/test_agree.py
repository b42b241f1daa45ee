"""The whole model must compute what it did: winners with which it does not are taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.tune.toy import QUICK, Norm, norm, spin
from twinkle_tune import tune_model
from twinkle_tune.capture.look import Look, apart, look_at
from twinkle_tune.capture.step import make_steps
from twinkle_tune.contest.agree import disagreement, in_words
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.kernel.patch import Binding
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Profile
from twinkle_tune.tune.events import Event, StepChecked

KEPT: dict[tuple[bool, torch.dtype], float] = {}


class Twins(nn.Module):
    """Two norms alike between linear layers, and the mean of squares as the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.grow, self.first, self.mix, self.second = nn.Linear(32, 32), Norm(32), nn.Linear(32, 32), Norm(32)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(rows, 32) to a loss and logits (rows, 32)."""
        logits = self.second(self.mix(self.first(self.grow(x))))
        return {"loss": logits.pow(2).mean(), "logits": logits}


def with_the_first_scale(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Keeps what it has learnt of the first instance: right for the one that it is tried on, wrong for the next."""
    scale = float(self.weight.detach().double().mean())
    kept = KEPT.setdefault((x.requires_grad, x.dtype), scale)
    return norm(self, x) * (kept / scale)


class Thrashing:
    """Fast as long as one instance calls it, slow whenever another one does."""

    last: Any = None

    @staticmethod
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        spin(20 if Thrashing.last in (None, id(self)) else 2000)
        Thrashing.last = id(self)
        return norm(self, x)


def tuned(impl: Callable[..., torch.Tensor], mode: str, events: list[Event] | None = None) -> Profile:
    """A profile of :class:`Twins` in which one candidate competes."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=impl, device="cpu", registry=registry)
    torch.manual_seed(0)
    model = Twins()
    KEPT.clear()
    return tune_model(
        model,
        torch.randn(8, 32),
        mode=mode,
        registry=registry,
        settings=QUICK,
        candidates=["impl"],
        on_event=None if events is None else events.append,
    )


@pytest.mark.parametrize("mode", ["inference", "train"])
def test_a_candidate_that_is_right_alone_and_breaks_the_loss_is_dropped(mode: str) -> None:
    """One that keeps the first instance's scale wins its contest and is taken back, with the figure."""
    events: list[Event] = []
    profile = tuned(with_the_first_scale, mode, events)
    reasons = [c.selection.reason for c in profile.contests]
    assert not profile.winners
    assert any("taken back: with it in step" in r and "the whole model's" in r for r in reasons), reasons
    assert any(isinstance(e, StepChecked) and e.disagreement for e in events)
    assert profile.verdict.startswith("Keep the original")


def test_a_candidate_that_is_fast_alone_and_slow_in_the_model_is_dropped() -> None:
    """One that pays whenever the instance changes wins alone and is taken back for the whole step's time."""
    Thrashing.last = None
    profile = tuned(Thrashing.forward, "inference")
    (contest,) = profile.contests
    assert contest.selection.winner == "original"
    assert "taken back: with it the whole step" in contest.selection.reason
    assert contest.confirmation


def plan_of(model: Twins, call: Callable[..., torch.Tensor]) -> Plan:
    """Both norms bound to a call."""
    binding = Binding(slot="Norm", path="", candidate="c", rows="all")
    return Plan(layers=tuple((module, call, binding) for module in (model.first, model.second)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
def test_another_order_of_roundings_agrees_and_a_percent_does_not(dtype: torch.dtype, mode: Mode) -> None:
    """A right norm in another form passes over 10 models; one that is wrong by 5% in half of them is found in each."""

    def other(self: Any, x: torch.Tensor) -> torch.Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        made: torch.Tensor = (x * torch.rsqrt(length * length / x.shape[-1] + self.eps) * self.weight).to(x.dtype)
        return made

    def off(self: Any, x: torch.Tensor) -> torch.Tensor:
        return norm(self, x) * 1.5

    for seed in range(10):
        torch.manual_seed(seed)
        model = Twins().to(dtype)
        (step,) = make_steps(model, torch.randn(8, 32, dtype=dtype), mode, "cpu")
        assert disagreement(model, step, plan_of(model, other), seed) == ""
        assert "the whole model's" in disagreement(model, step, plan_of(model, off), seed)
        assert "forward" not in model.first.__dict__


def test_wrong_gradients_behind_a_right_loss_are_found() -> None:
    """A norm whose backward gives twice the gradient leaves loss and logits as they are."""

    class Doubling(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            return gradients[0] * 2

    def doubling(self: Any, x: torch.Tensor) -> torch.Tensor:
        doubled: torch.Tensor = Doubling.apply(norm(self, x))  # type: ignore[no-untyped-call]
        return doubled

    torch.manual_seed(0)
    model = Twins()
    (step,) = make_steps(model, torch.randn(8, 32), Mode.TRAIN, "cpu")
    before = [p.grad for p in model.parameters()]
    assert disagreement(model, step, plan_of(model, doubling)).startswith("the whole model's gradients")
    assert [p.grad for p in model.parameters()] == before


def test_random_states_are_left_alone_and_dropout_is_drawn_alike() -> None:
    """A model with dropout agrees with itself, and the global generator goes on where it was."""
    torch.manual_seed(0)
    model = Twins()
    model.mix = nn.Sequential(model.mix, nn.Dropout(0.5))  # type: ignore[assignment]
    model.train()
    (step,) = make_steps(model, torch.randn(8, 32), Mode.TRAIN, "cpu")
    state = torch.random.get_rng_state()
    assert disagreement(model, step, plan_of(model, norm)) == ""
    assert torch.equal(torch.random.get_rng_state(), state)


def look(loss: float | None = None, outputs: list[float] | None = None, gradients: list[float] | None = None) -> Look:
    """A look with these figures."""
    made = [torch.tensor(values or [], dtype=torch.float64) for values in (outputs, gradients)]
    return Look(loss=loss, outputs=made[0], gradients=made[1], units={"loss": 1e-7, "outputs": 1e-7, "gradients": 1e-7})


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (look(loss=1.0), look(loss=float("nan")), "loss"),
        (look(loss=1.0), look(), "loss"),
        (look(outputs=[1.0, 2.0]), look(outputs=[1.0, float("inf")]), "outputs"),
        (look(outputs=[1.0, 2.0]), look(outputs=[1.0]), "outputs"),
        (look(gradients=[1.0, 2.0]), look(gradients=[1.0]), "gradients"),
        (look(outputs=[0.0, 0.0]), look(outputs=[0.0, 1.0]), "outputs"),
    ],
)
def test_what_has_no_number_is_infinitely_far(one: Look, other: Look, name: str) -> None:
    """A lost number, another form, or something from nothing is no rounding, whatever the noise."""
    figures = apart(one, other)
    assert figures[name] == float("inf")
    assert in_words(figures, dict.fromkeys(figures, 1e30), one.units)


def test_masked_infinities_are_no_difference() -> None:
    """Outputs that are infinite in the same places are compared in the others."""
    one, other = look(outputs=[1.0, float("-inf")]), look(outputs=[1.0, float("-inf")])
    assert apart(one, other) == {"outputs": 0.0}


def test_a_large_output_is_looked_at_in_part() -> None:
    """At most two million elements of an output are kept, spread over all of it."""
    kept = look_at(torch.arange(3_000_000, dtype=torch.float32)).outputs
    assert kept.numel() <= 2 << 20
    assert kept[-1] > 2_999_000 - 10
