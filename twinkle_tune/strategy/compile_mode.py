"""torch.compile of the model as a whole on a CUDA device, with other settings of inductor than the usual ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from twinkle_tune.strategy.backend import Backend, compiled
from twinkle_tune.strategy.base import Call, Running
from twinkle_tune.strategy.on_cuda import why_not_on_cuda


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileMode:
    """The model's forward compiled so.

    Attributes:
        name: as of :class:`~twinkle_tune.strategy.base.Strategy`.
        instead_of: as there.
        after: as there.
        traces_all: as there.
        options: inductor's settings, as torch.compile's argument of that name takes them.
        trains: whether it is for training, too.
    """

    name: str
    options: tuple[tuple[str, object], ...]
    trains: bool
    instead_of: str = ""
    after: str = ""
    traces_all: bool = True

    def why_not(self, model: nn.Module, *, trains: bool) -> str:
        """As :meth:`Strategy.why_not`."""
        return why_not_on_cuda(model) or ("it is for inference" if trains and not self.trains else "")

    def running(self, model: nn.Module, backend: Backend, traced: Callable[[Call], Call]) -> Running:
        """As :meth:`Strategy.running`."""
        backend.options = dict(self.options)
        return Running(root=compiled(traced(type(model).forward), backend, None))


REDUCE_OVERHEAD = CompileMode(
    name="compile reduce-overhead",
    # A graph for each length of a cache that grows would be recorded, unseen, at each of them.
    options=(("triton.cudagraphs", True), ("triton.cudagraph_skip_dynamic_graphs", True)),
    trains=False,
)
MAX_AUTOTUNE = CompileMode(
    name="compile max-autotune",
    options=(("max_autotune", True), ("coordinate_descent_tuning", True)),
    trains=True,
    after="compile",
)
