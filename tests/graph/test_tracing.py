"""What a graph of a forward holds of sizes, functions and settings: nothing that may be another at the next call."""

from __future__ import annotations

import math
import sys
from math import sqrt
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.graph.attentions import SIZES, NanoAttention
from tests.graph.toys import Added, Fused
from twinkle_tune import replace_pattern, restore_model
from twinkle_tune.catalog.functions import is_slot
from twinkle_tune.errors import GraphError
from twinkle_tune.graph.form import Form
from twinkle_tune.graph.rewrite import compiled
from twinkle_tune.graph.trace import trace


def again(module: nn.Module, traced_with: Tensor, given: Tensor) -> Any:
    """What the graph of one call computes for another."""
    traced = trace(module, Form.of((traced_with,), {}, training=False), _whole)
    return compiled(traced, [])(module, (), given)


def _whole(place: str, name: str, value: Any) -> bool:
    return is_slot(value)


def scaled(x: Tensor) -> Tensor:
    """A function of this file that calls ``math``."""
    return x * math.log2(x.size(1))


def turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """By its form a rotary embedding."""
    return q * cos, k * sin


class Sizes(nn.Module):
    """Sizes in functions of math: by the module, by its own name, in a function and in a method."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, width) to itself."""
        return self.rooted(scaled(x / math.sqrt(x.size(-1)) * sqrt(x.shape[1])))

    def rooted(self, x: Tensor) -> Tensor:
        """A method."""
        return x - math.exp(-x.shape[0])


class Heads(nn.Module):
    """The shape is taken apart by a star, as models of transformers do."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., 8) to (..., 2, 4), and a number for how many dimensions there are."""
        front = x.shape[:-1]
        return x.view(*front, 2, -1) + len(x.shape)


class Turning(nn.Module):
    """Calls a function that is a slot."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) to itself."""
        q, k = turned(x, x, x, x)
        return q + 2 * k


class Configured(nn.Module):
    """A block that reads its config while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.config = nn.LayerNorm(8), SimpleNamespace(factor=1.0, other="a")

    def forward(self, x: Tensor) -> Any:
        """(..., 8) to (..., 8)."""
        total = x + x
        return total, self.norm(total), x * self.config.factor


@pytest.mark.parametrize("module", [Sizes(), NanoAttention(), Heads()], ids=["math", "nanoGPT", "star"])
def test_sizes_are_those_of_each_call(module: nn.Module) -> None:
    """A graph of one size computes at another what the forward computes there, to the bit."""
    width = 8 if isinstance(module, Heads) else SIZES.width
    other = torch.randn(3, 7, width)
    assert torch.equal(again(module, torch.randn(1, 4, width), other), module(other))


def test_math_stays_as_it_is() -> None:
    """Tracing gives the forward other names, and leaves those of its file and the module math alone."""
    before, mine = dict(vars(math)), dict(vars(sys.modules[__name__]))
    trace(Sizes(), Form.of((torch.randn(1, 4, 8),), {}, training=False))
    assert vars(math) == before
    assert vars(sys.modules[__name__]) == mine


def test_how_many_dimensions_there_are_is_part_of_the_form() -> None:
    """Where a graph may have counted them, calls with another number are of another form; unknown, none is counted."""
    form = Form.of((torch.randn(2, 8),), {}, training=False)
    assert form.fits((torch.randn(5, 8),), {}, training=False)
    assert not form.fits((torch.randn(2, 3, 8),), {}, training=False)
    assert Form.read(form.text) == form
    usual = Form.usual(Heads.forward, training=False)
    assert usual.fits((torch.randn(2, 3, 8),), {}, training=False)
    with pytest.raises(GraphError, match="cannot be iterated"):
        trace(Heads(), usual)


def test_a_slot_that_is_a_function_stays_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands under its name when the graph runs is called, not what stood there while it was traced."""
    module, x = Turning(), torch.randn(2, 3)
    traced = trace(module, Form.of((x,), {}, training=False), _whole)
    forward = compiled(traced, [])
    assert torch.equal(forward(module, (), x), module(x))
    monkeypatch.setattr(sys.modules[__name__], "turned", lambda q, k, cos, sin: (q, k))
    assert torch.equal(forward(module, (), x), 3 * x)


def test_what_was_read_of_a_config_is_looked_at() -> None:
    """Another value of what the forward read brings the original back; of what it did not read, not."""
    block: Any = Configured()
    x = torch.randn(2, 8)
    (place,) = replace_pattern(block, Added, Fused, example_inputs=x)
    assert place == "norm"
    for change, ran in (("other", 1), ("factor", 0)):
        setattr(block.config, change, 3.0)
        before = Fused.ran
        _, _, given = block(x)
        assert Fused.ran - before == ran
    assert torch.equal(given, x * 3.0)
    restore_model(block)
