"""A graph is for a module where all that its forward read still stands; what cannot be looked at is in none."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from twinkle_tune.errors import GraphError
from twinkle_tune.graph.form import Form
from twinkle_tune.graph.trace import trace
from twinkle_tune.graph.watched import is_as_read


class Config(SimpleNamespace):
    """Settings."""


class Reads(nn.Module):
    """A forward that reads what ``ask`` asks of it."""

    per_class = 2.0

    def __init__(self, ask: Callable[[Any], Any]) -> None:
        super().__init__()
        self.asked = ask
        self.drop, self.scale, self.pair = nn.Dropout(0.5), 2.0, (2.0, 3.0)
        self.config = Config(scale=2.0, inner=Config(scale=2.0), sizes=[2.0], named={"scale": 2.0})
        self.sizes, self.loose = [2.0], torch.tensor(2.0)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x * self.asked(self)
        return made

    def doubled(self) -> float:
        return 2.0


FORM = Form.of((torch.ones(2, 3),), {}, training=True)


@pytest.mark.parametrize(
    ("ask", "change"),
    [
        (lambda m: m.scale, lambda m: setattr(m, "scale", 3.0)),
        (lambda m: m.pair[1], lambda m: setattr(m, "pair", (2.0, 4.0))),
        (lambda m: m.per_class, lambda m: setattr(m, "per_class", 3.0)),
        (lambda m: m.drop.p, lambda m: setattr(m.drop, "p", 0.0)),
        (lambda m: float(m.drop.training), lambda m: m.drop.eval()),
        (lambda m: m.config.scale, lambda m: setattr(m.config, "scale", 3.0)),
        (lambda m: m.config.scale, lambda m: setattr(m, "config", Config(scale=3.0))),
        (lambda m: m.config.inner.scale, lambda m: setattr(m.config.inner, "scale", 3.0)),
        (lambda m: m.config.inner.scale, lambda m: setattr(m.config, "inner", Config(scale=3.0))),
        (lambda m: getattr(m.config, "late", 2.0), lambda m: setattr(m.config, "late", 3.0)),
        (lambda m: getattr(m, "late", 2.0), lambda m: setattr(m, "late", 3.0)),
        (lambda m: m.doubled(), lambda m: setattr(m, "doubled", lambda: 3.0)),
    ],
)
def test_what_was_read_is_looked_at(ask: Callable[[Any], Any], change: Callable[[Any], Any]) -> None:
    """As long as it stands the graph is the module's; after a change it is not."""
    module = Reads(ask)
    read = trace(module, FORM).read
    assert is_as_read(module, read)
    change(module)
    assert not is_as_read(module, read)


def test_a_method_or_value_that_the_class_gets_later_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is on the instance."""
    for name, value in (("doubled", lambda self: 3.0), ("per_class", 3.0)):
        module = Reads(lambda m: m.doubled() * m.per_class)
        read = trace(module, FORM).read
        assert is_as_read(module, read)
        with monkeypatch.context() as patched:
            patched.setattr(Reads, name, value)
            assert not is_as_read(module, read)


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda m: m.sizes[0], "it reads 'sizes', a list, which may change inside"),
        (lambda m: m.config.sizes[0], "it reads 'config.sizes', a list"),
        (lambda m: m.config.named["scale"], "it reads 'config.named', a dict"),
        (lambda m: m.loose.item(), "it reads 'loose', a Tensor"),
        (lambda m: m.drop.extra_repr(), "it reads 'drop.extra_repr', a method"),
        (lambda m: random.random(), "it draws random numbers"),
        (lambda m: torch.rand(()).item(), "it draws random numbers"),
    ],
)
def test_what_cannot_be_looked_at_is_in_no_graph(ask: Callable[[Any], Any], why: str) -> None:
    """The forward has none, the reason names it, and random states are as before."""
    before = random.getstate(), torch.get_rng_state()
    with pytest.raises(GraphError, match=why):
        trace(Reads(ask), FORM)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


class Without(nn.Module):
    """Its forward switches gradients off."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x * 2.0


class Asks(nn.Module):
    """A method that its forward calls asks about them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x)

    def scaled(self, x: Tensor) -> Tensor:
        return x * (2.0 if torch.is_grad_enabled() else 3.0)


class Decorated(Asks):
    """A method that its forward calls runs without them."""

    @torch.no_grad()
    def scaled(self, x: Tensor) -> Tensor:
        return x * 2.0


@pytest.mark.parametrize("kind", [Without, Asks, Decorated])
def test_gradients_that_are_asked_about_or_switched_are_in_no_graph(kind: type[nn.Module]) -> None:
    """Only what is computed inside would be written down."""
    with pytest.raises(GraphError, match=r"asks about gradients or autocast|with gradients, or autocast, switched"):
        trace(kind(), FORM)
