"""What a way of running a whole model is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from twinkle_tune.strategy.backend import Backend

Call = Callable[..., Any]
"""A forward that takes its module first. It holds no module, so that a copy of the model computes with its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What stands in a model that is run in a way.

    Attributes:
        root: the model's forward.
        parts: paths of modules inside, the modules, and their forwards; each is its class's own outside of ``root``.
    """

    root: Call
    parts: tuple[tuple[str, nn.Module, Call], ...] = ()


class Strategy(Protocol):
    """A way of running a whole model.

    Attributes:
        name: as records and reports call it.
        instead_of: the name of a way that it can only stand in for: it is tried where that one is not clearly faster
            than the original. "" for a way that is tried always.
        after: the name of a way that must be clearly faster than the original before it is tried: it takes long to
            compile. "" for none.
        traces_all: whether the model's own forward is compiled, so that what is set while it is traced holds for all of
            the model.
    """

    @property
    def name(self) -> str: ...

    @property
    def instead_of(self) -> str: ...

    @property
    def after(self) -> str: ...

    @property
    def traces_all(self) -> bool: ...

    def why_not(self, model: nn.Module, *, trains: bool) -> str:
        """Why a model cannot be run so, in training or in inference; "" where it can."""
        ...

    def running(self, model: nn.Module, backend: Backend, traced: Callable[[Call], Call]) -> Running:
        """The forwards by which it is; nothing is compiled before the first call.

        Args:
            model: with its originals.
            backend: compiles.
            traced: makes of a class's forward what is to be compiled: it says what runs inside.
        """
        ...
