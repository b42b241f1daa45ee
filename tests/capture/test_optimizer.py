"""The optimizer's step in a training step: all of its work, and nothing of it left behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import ref

import pytest
import torch
from torch import nn

from tests.capture.tiny_models import tiny, token_ids
from twinkle_tune.capture.optimizer import OptimizerStep
from twinkle_tune.capture.step import Step, make_steps
from twinkle_tune.mode import Mode


def train_step(model: nn.Module, x: object, optimizer: OptimizerStep | None) -> Step:
    """The one training step."""
    (step,) = make_steps(model, x, Mode.TRAIN, "cpu", optimizer)
    return step


def bits(model: nn.Module) -> list[torch.Tensor]:
    """The parameters' bits: -0.0 and 0.0 are two things, and a NaN is equal to itself."""
    return [p.detach().clone().view(torch.int32) for p in model.parameters()]


@pytest.mark.parametrize("gradient", [1.0, math.inf, math.nan])
def test_weights_keep_their_bits(gradient: float) -> None:
    """After three steps of AdamW every weight has the bits that it had, -0.0 too, whatever the gradients are."""
    model = nn.Linear(4, 4)
    with torch.no_grad():
        model.weight[0] = -0.0
    model.weight.register_hook(lambda grad: grad * gradient)  # type: ignore[no-untyped-call]
    before = bits(model)
    optimizer = OptimizerStep()
    step = train_step(model, torch.randn(2, 4), optimizer)
    for _ in range(3):
        step.run(model)
    assert all(torch.equal(now, then) for now, then in zip(bits(model), before, strict=True))
    assert (optimizer.name, optimizer.problem) == ("AdamW", "")
    assert model.weight.grad is None


def test_the_work_is_adamws() -> None:
    """The copies go where AdamW takes the same weights with the same gradients: the arithmetic is all done."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    twin = nn.Linear(4, 4)
    twin.load_state_dict(model.state_dict())
    real = torch.optim.AdamW(twin.parameters())
    seen: list[list[nn.Parameter]] = []

    def make(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        seen.append(list(parameters))
        return torch.optim.AdamW(parameters)

    step = train_step(model, x, OptimizerStep(make))
    gradients: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda grad, name=name: gradients.update({name: grad.clone()}))  # type: ignore[no-untyped-call]
    for _ in range(3):
        step.run(model)
        for name, parameter in twin.named_parameters():
            parameter.grad = gradients[name]
        real.step()
    assert len(seen) == 1
    assert all(torch.equal(mine, its) for mine, its in zip(seen[0], twin.parameters(), strict=True))
    assert not torch.equal(seen[0][0], model.weight)


def test_what_it_holds_is_let_go() -> None:
    """Copies and state are gone after a release, and the next step has new ones."""
    held: list[Any] = []

    def make(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        made = torch.optim.AdamW(parameters)
        held.append((ref(made), ref(parameters[0])))
        return made

    optimizer = OptimizerStep(make)
    model = nn.Linear(4, 4)
    step = train_step(model, torch.randn(2, 4), optimizer)
    step.run(model)
    assert optimizer.holds
    optimizer.release()
    assert [each() for each in held[0]] == [None, None]
    step.run(model)
    assert len(held) == 2
    assert optimizer.name == "AdamW"


def test_tied_frozen_and_unused_parameters() -> None:
    """A tied weight has one copy, a frozen one none, and one without a gradient is passed over."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.unused = (nn.Linear(4, 4, bias=False) for _ in range(3))
            self.second.weight = self.first.weight
            self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)) * self.frozen  # type: ignore[no-any-return]

    given: list[int] = []

    def make(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        given.append(len(parameters))
        return torch.optim.SGD(parameters)

    optimizer = OptimizerStep(make)
    model = Odd()
    train_step(model, torch.randn(2, 4), optimizer).run(model)
    assert given == [2]
    assert (optimizer.name, optimizer.problem) == ("SGD", "")


def test_an_optimizer_that_raises_is_gone_and_says_why() -> None:
    """Sparse gradients are nothing for AdamW: the step goes on without it, and what it held is let go."""
    optimizer = OptimizerStep()
    model = nn.Sequential(nn.Embedding(8, 4, sparse=True), nn.Linear(4, 4))
    step = train_step(model, torch.tensor([[1, 2]]), optimizer)
    step.run(model)
    step.run(model)
    assert optimizer.problem.startswith("without the optimizer's step: RuntimeError: Adam")
    assert "does not support sparse gradients" in optimizer.problem
    assert (optimizer.name, optimizer.holds) == ("", False)


def test_too_little_memory_is_seen_before_it_is_taken() -> None:
    """Where the state does not fit the room that there is, nothing is allocated and the reason has both figures."""
    optimizer = OptimizerStep(room_bytes=100)
    model = nn.Linear(4, 4)
    train_step(model, torch.randn(2, 4), optimizer).run(model)
    assert "MemoryError: it takes 0.0 GiB, 0.0 GiB are free" in optimizer.problem
    assert not optimizer.holds


def test_a_model_that_runs_out_of_memory_beside_it_runs_without() -> None:
    """A forward that has no room beside the optimizer's state is run again without it; without one it is an error."""

    class Full(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if optimizer.holds:
                raise torch.OutOfMemoryError("tried to allocate 1.00 TiB")
            return self.linear(x)  # type: ignore[no-any-return]

    optimizer = OptimizerStep()
    model = Full()
    step = train_step(model, torch.randn(2, 4), optimizer)
    step.run(model)
    assert optimizer.name == "AdamW"
    step.run(model)
    assert "tried to allocate 1.00 TiB" in optimizer.problem
    assert not optimizer.holds


def test_a_look_takes_no_optimizer_and_inference_has_none() -> None:
    """What is compared are outputs and gradients; no other step than training's has an optimizer."""
    optimizer = OptimizerStep()
    model = tiny("qwen3").train()
    step = train_step(model, token_ids(2, 5), optimizer)
    step.look(model)
    assert not optimizer.holds
    assert step.label == "train 2x5"
    for other in make_steps(model, token_ids(2, 5), Mode.INFERENCE, "cpu", optimizer):
        other.run(model)
        assert other.optimizer is None
    assert not optimizer.holds
