"""torch.compile of the model as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from twinkle_tune.strategy.backend import Backend, compiled
from twinkle_tune.strategy.base import Call, Running


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileModel:
    """The model's forward compiled.

    Attributes:
        name: as of :class:`~twinkle_tune.strategy.base.Strategy`.
        instead_of: as there.
        after: as there.
        traces_all: as there.
        dynamic: torch.compile's argument of that name.
    """

    name: str = "compile"
    instead_of: str = ""
    after: str = ""
    traces_all: bool = True
    dynamic: bool | None = None

    def why_not(self, model: nn.Module, *, trains: bool) -> str:
        """Any model may be tried."""
        return ""

    def running(self, model: nn.Module, backend: Backend, traced: Callable[[Call], Call]) -> Running:
        """As :meth:`Strategy.running`."""
        return Running(root=compiled(traced(type(model).forward), backend, self.dynamic))
