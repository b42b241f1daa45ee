"""What is to be bound to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from twinkle_tune.kernel.dispatch import Family
from twinkle_tune.kernel.patch import Binding
from twinkle_tune.kernel.resolve import Stale
from twinkle_tune.kernel.setups import Layers
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import MODEL, Slot


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

    @property
    def is_empty(self) -> bool:
        """Whether it binds nothing."""
        return not self.layers and not self.functions

    @property
    def has_ways(self) -> bool:
        """Whether it puts ways of running the whole model in place."""
        return any(binding.slot == MODEL for _, _, binding in self.layers)

    def unbound(self, winners: Iterable[Contest]) -> tuple[str, ...]:
        """What of ``stale`` keeps something from being bound: not what is said of contests that the original won."""
        won = list(winners)
        idle = {str(entry) for entry in self.entries if not any(entry.is_of(contest) for contest in won)}
        return tuple(reason for reason in self.stale if reason not in idle)


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
