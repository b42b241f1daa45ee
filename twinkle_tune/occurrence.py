"""Occurrence: a slot as it stands in one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from twinkle_tune.slot import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """A slot of a model, with what stands in it.

    Attributes:
        slot: the place.
        instances: (path in the model, module) of a layer slot, all of one class, in the model's order; empty for a
            function slot.
        function: the function, method or callable object that stands in the place; None for a layer slot.
    """

    slot: Slot
    instances: tuple[tuple[str, nn.Module], ...] = ()
    function: Callable[..., Any] | None = None

    @property
    def module(self) -> nn.Module | None:
        """The first instance; None for a function slot."""
        return self.instances[0][1] if self.instances else None

    @property
    def original(self) -> Callable[..., Any]:
        """The original's code: the class's forward, which takes the module first, or the function."""
        return type(self.instances[0][1]).forward if self.function is None else self.function
