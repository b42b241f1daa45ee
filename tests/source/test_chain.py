"""Whether a layer's forward runs its children one after another, read off its source: what is taken and what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from twinkle_tune.source.chain import why_no_chain

Forward = Callable[..., Any]


class Layer(nn.Module):
    """With what its forwards may look at beside its children."""

    def helper(self, x: Any) -> Any:
        """A method, which has the layer."""
        return x

    def nested(self: Any, x: Any) -> Any:
        """One within the other."""
        y = x + self.attn(self.first(x), x)
        return x + self.b(self.a(y))

    def in_turn(self: Any, x: Any, skip: bool = False) -> Any:
        """As transformers has it, with a way out before, and a setting."""
        if skip or self.off:
            return x
        kept = x
        x = self.a(x)
        x = self.b(x)
        return kept + x

    def at_the_end(self: Any, x: Any) -> Any:
        """Returned at once."""
        h = self.a(x)
        return x + self.b(h)

    def writes(self: Any, x: Any) -> Any:
        """What it writes would be lost."""
        y = self.b(self.a(x))
        self.last = y
        return y

    def counts(self: Any, x: Any) -> Any:
        """So would this."""
        self.calls += 1
        return self.b(self.a(x))

    def hands_on(self: Any, x: Any) -> Any:
        """Whoever gets it may do anything."""
        print(self)
        return self.b(self.a(x))

    def asks_itself(self: Any, x: Any) -> Any:
        """So may its methods."""
        return self.b(self.a(self.helper(x)))

    def looks(self: Any, x: Any) -> Any:
        """At a child's weights."""
        return self.b(self.a(x.to(self.b.weight.dtype)))

    def through_its_modules(self: Any, x: Any) -> Any:
        """By another name."""
        return self._modules["a"](self.b(self.a(x)))

    def either(self: Any, x: Any) -> Any:
        """One of them alone, at times."""
        h = self.a(x)
        return self.b(h) if x.mean() > 0 else h

    def at_times(self: Any, x: Any) -> Any:
        """As well."""
        x = self.a(x)
        if self.off:
            return x
        return self.b(x)

    def keeps(self: Any, x: Any) -> Any:
        """What is between them is seen."""
        h = self.a(x)
        y = self.b(h)
        return h + y

    def twice(self: Any, x: Any) -> Any:
        """Its result counts two times."""
        h = self.a(x)
        return h + self.b(h)

    def with_more(self: Any, x: Any) -> Any:
        """The second has something else beside."""
        return self.b(self.a(x), x)

    def the_other_way_round(self: Any, x: Any) -> Any:
        """Another order."""
        return self.a(self.b(x))

    def tries(self: Any, x: Any) -> Any:
        """It goes on where one raises."""
        try:
            return self.b(self.a(x))
        except ValueError:
            return x

    def defers(self: Any, x: Any) -> Any:
        """Somebody may run it later."""
        return (lambda y: self.b(self.a(y)))(x)


@pytest.mark.parametrize("forward", [Layer.nested, Layer.in_turn, Layer.at_the_end])
def test_one_after_another_for_certain(forward: Forward) -> None:
    """The first is never run without the second on its result, and nobody else sees them."""
    assert why_no_chain(forward, Layer, ("a", "b")) == ""


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (Layer.writes, "writes on self, or hands it on: what it writes would be lost"),
        (Layer.counts, "writes on self"),
        (Layer.hands_on, "writes on self, or hands it on"),
        (Layer.asks_itself, "uses self.helper, which may look at the modules"),
        (Layer.looks, "does not use self.b exactly once"),
        (Layer.through_its_modules, "uses self._modules, which may look"),
        (Layer.either, "does not run self.b right after self.a"),
        (Layer.at_times, "does not run self.b right after self.a"),
        (Layer.keeps, "does not run self.b right after self.a"),
        (Layer.twice, "does not run self.b right after self.a"),
        (Layer.with_more, "does not run self.b right after self.a"),
        (Layer.the_other_way_round, "does not run self.b right after self.a"),
        (Layer.tries, "has a function, a try or a look at itself inside"),
        (Layer.defers, "has a function, a try or a look at itself inside"),
        (print, "has no source of its own"),
    ],
)
def test_in_doubt_it_is_none(forward: Forward, why: str) -> None:
    """What could run one of them alone, see what is between them, or write on the layer is refused, with the reason."""
    assert why in why_no_chain(forward, Layer, ("a", "b"))


def test_three_in_turn() -> None:
    """Each right after the one before."""

    def forward(self: Any, x: Any) -> Any:
        x = self.a(x)
        x = self.b(x)
        return self.c(x)

    assert why_no_chain(forward, Layer, ("a", "b", "c")) == ""
    assert "self.c right after self.a" in why_no_chain(forward, Layer, ("a", "c"))
