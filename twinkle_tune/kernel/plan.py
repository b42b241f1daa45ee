"""What is to be bound to a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from twinkle_tune.kernel.dispatch import Family
from twinkle_tune.kernel.patch import Binding
from twinkle_tune.kernel.resolve import Stale
from twinkle_tune.kernel.setups import Layers
from twinkle_tune.slot import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A slot that keeps its original, and why."""

    slot: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to bind: forwards of instances and replacements of functions; ``kept`` says what is not and why.

    ``stale`` says what does not hold any more; ``entries`` has it of those that are said of one entry of the profile.
    """

    layers: tuple[tuple[nn.Module, Callable[..., Any], Binding], ...] = ()
    functions: tuple[tuple[Slot, Callable[..., Any] | tuple[Family, ...], Binding], ...] = ()
    kept: tuple[Kept, ...] = ()
    stale: tuple[str, ...] = ()
    entries: tuple[Stale, ...] = ()


def with_ways(kernels: Plan, ways: Layers) -> Plan:
    """A plan of kernels with ways of running the whole model: where both stand at one module, the way does."""
    taken = {id(module) for module, _, _ in ways}
    lost = [binding for module, _, binding in kernels.layers if id(module) in taken]
    reason = "a way of running the whole model stands there"
    return replace(
        kernels,
        layers=(*ways, *(layer for layer in kernels.layers if id(layer[0]) not in taken)),
        kept=(*kernels.kept, *(Kept(slot=f"{b.slot} {b.path}".rstrip(), reason=reason) for b in lost)),
    )
