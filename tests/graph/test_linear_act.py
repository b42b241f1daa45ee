"""A Linear and its activation are found where no layer is the two, with right candidates; wrong ones are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from tests.catalog.catalog_families import tiny as decoder
from tests.catalog.encoder_families import tiny
from tests.catalog.test_catalog_candidates import ready_made
from tests.graph.test_pattern_slots import profile_of
from tests.graph.toys import LinearGelu, Stack
from twinkle_tune import register_pattern_kernel
from twinkle_tune.catalog import layer_contestants, layer_name, linear_act
from twinkle_tune.catalog.contestants import pattern_contestants
from twinkle_tune.catalog.linear_act import LINEAR_ACT, LinearAct
from twinkle_tune.graph.form import Form
from twinkle_tune.graph.pattern import Place
from twinkle_tune.graph.trace import trace
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Rejection
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.testing import assert_parity
from twinkle_tune.workload import target_of


class Mixer(nn.Module):
    """No layer that the catalog knows: what is computed before and after the pair is its own."""

    def __init__(self, linear: nn.Module, act: nn.Module | None = None) -> None:
        super().__init__()
        self.linear = linear
        if act is not None:
            self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(..., a) to (..., b)."""
        out: Tensor = self.act(self.linear(x.flip(-1)))
        return out.flip(-1)


class ByTanh(Mixer):
    """The activation is a call."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., a) to (..., b)."""
        return F.gelu(self.linear(x.flip(-1)), approximate="tanh").flip(-1)


class ByRelu(Mixer):
    """The same."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., a) to (..., b)."""
        return torch.relu(self.linear(x.flip(-1))).flip(-1)


class ReadAgain(Mixer):
    """The Linear's output is read after the activation, too."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., a) to (..., b)."""
        out = self.linear(x)
        return self.act(out) - out  # type: ignore[no-any-return]


class Gating(Mixer):
    """The activation is a gate."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., a) to (..., a)."""
        return self.act(self.linear(x)) * x  # type: ignore[no-any-return]


class Another(Mixer):
    """A function that is no activation of one argument."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., a) to (..., b)."""
        return F.leaky_relu(self.linear(x), 0.3).flip(-1)


def found(module: nn.Module) -> tuple[Place, ...]:
    """Places in a module's graph."""
    return linear_act.find(trace(module, Form.usual(type(module).forward, training=False)))


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
@pytest.mark.parametrize(
    ("module", "function"),
    [
        (Mixer(nn.Linear(24, 40), nn.GELU()), ""),
        (Mixer(Conv1D(40, 24), nn.GELU(approximate="tanh")), ""),
        (Mixer(nn.Linear(24, 40, bias=False), nn.SiLU()), ""),
        (ByTanh(nn.Linear(24, 40)), "gelu_tanh"),
        (ByRelu(Conv1D(40, 24)), "relu"),
    ],
    ids=["gelu", "Conv1D", "no bias", "a call", "Conv1D and a call"],
)
def test_a_pair_has_right_candidates(module: nn.Module, function: str, mode: Mode) -> None:
    """Child or call, Linear or Conv1D: one place, and what competes there computes the same, gradients too."""
    (place,) = found(module)
    piece: Any = place.piece(module, Form.usual(type(module).forward, training=False))
    assert piece.function == function
    slot = Slot(name=LINEAR_ACT, kind=SlotKind.PATTERN, target=target_of(LinearAct))
    made = [c for c in ready_made(pattern_contestants(LINEAR_ACT, piece, "cpu")) if c.competes("cpu", mode)]
    assert made
    x = torch.randn(3, 5, 24, requires_grad=mode.trains)
    for candidate in made:
        ours = candidate.source.load(slot, LinearAct.forward).call
        assert_parity(ours, LinearAct.forward, x, module=piece, mode=mode.value)


@pytest.mark.parametrize("kind", [ReadAgain, Gating, Another])
def test_what_is_no_pair_is_no_place(kind: type[Mixer]) -> None:
    """An output that is read again, a gate, a function with a setting that is not known."""
    assert found(kind(nn.Linear(8, 8), nn.GELU())) == ()


@pytest.mark.parametrize(
    ("family", "name"),
    [("bert", "LinearAct"), ("deberta", "LinearAct"), ("gpt2", "MLP"), ("vit", "MLP"), ("t5", "MLP"), ("phi", "MLP")],
)
def test_a_pair_in_a_layer_is_contested_there(family: str, name: str) -> None:
    """A layer that is the pair, or holds it, is the slot: it has a candidate of torch's, and no piece is in it."""
    model = decoder("phi") if family == "phi" else tiny(family)
    layers = [m for m in model.modules() if layer_name(m) == name]
    assert layers
    for layer in layers:
        assert not linear_act.may_hold(layer)
        assert any(c.name.startswith("torch.") for c in layer_contestants(name, layer, "cpu"))


def right(self: Any, x: Tensor) -> Tensor:
    """What it computes."""
    return F.gelu(F.linear(x, self.linear.weight, self.linear.bias))


def forgets_the_bias(self: Any, x: Tensor) -> Tensor:
    """The product alone."""
    return F.gelu(F.linear(x, self.linear.weight))


def another_activation(self: Any, x: Tensor) -> Tensor:
    """Near to gelu, and not gelu."""
    return F.silu(self.linear(x))


def another_approximation(self: Any, x: Tensor) -> Tensor:
    """Gelu by a tanh: off by a thousandth."""
    return F.gelu(self.linear(x), approximate="tanh")


def no_gradient_of_the_bias(self: Any, x: Tensor) -> Tensor:
    """Right forward, wrong backward."""
    return F.gelu(F.linear(x, self.linear.weight, self.linear.bias.detach()))


WRONG = (forgets_the_bias, another_activation, another_approximation, no_gradient_of_the_bias)


def test_wrong_replacements_are_refused() -> None:
    """Without the bias or its gradient, with another activation or another gelu: by parity. The right one is not."""
    registry = Registry()
    for replacement in (right, *WRONG):
        register_pattern_kernel("LinearGelu", LinearGelu, replacement, device="cpu", registry=registry)
    inputs = {"x": torch.randn(4, 8, requires_grad=True)}
    profile = profile_of(Stack().train(), inputs, Mode.TRAIN, candidates=["impl"], registry=registry)
    (contest,) = [c for c in profile.contests if c.slot.name == "LinearGelu"]
    refused = {t.candidate: t.outcome.stage for t in contest.trials if isinstance(t.outcome, Rejection)}
    assert refused == {f"impl:{each.__name__}": "parity" for each in WRONG}
