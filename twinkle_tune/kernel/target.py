"""A slot together with the places in one model where it occurs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from twinkle_tune.slot import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A slot of a model.

    Attributes:
        slot: the place.
        instances: (path in the model, module), in the model's order; empty for a function slot.
        function: the function, method or callable object that stands in the place now; None for a layer slot.
    """

    slot: Slot
    instances: tuple[tuple[str, nn.Module], ...] = ()
    function: Callable[..., Any] | None = None
