"""torch.compile of each block that a model repeats."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from twinkle_tune.call.saving import saving_hooks
from twinkle_tune.catalog.block import outermost_blocks
from twinkle_tune.strategy.backend import Backend, compiled
from twinkle_tune.strategy.base import Call, Running

_inside: ContextVar[object] = ContextVar("twinkle_tune_compiled_blocks", default=None)
"""Whose root is running: blocks that anybody else calls (a checkpoint in a backward) run their class's forward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileBlocks:
    """Each outermost block compiled, with code of its own: a layer's index is a guard of its code."""

    name: str = "compile blocks"
    instead_of: str = ""
    after: str = ""
    traces_all: bool = False

    def why_not(self, model: nn.Module, *, trains: bool) -> str:
        """As :meth:`Strategy.why_not`."""
        return "" if outermost_blocks(model) else "the model repeats no block"

    def running(self, model: nn.Module, backend: Backend, traced: Callable[[Call], Call]) -> Running:
        """As :meth:`Strategy.running`."""
        ours, original = object(), type(model).forward

        def root(self: Any, *args: Any, **kwargs: Any) -> Any:
            token = _inside.set(ours)
            try:
                return original(self, *args, **kwargs)
            finally:
                _inside.reset(token)

        blocks = set(outermost_blocks(model))
        return Running(
            root=root,
            parts=tuple(
                (path, m, _block(m, backend, traced, ours)) for path, m in model.named_modules() if m in blocks
            ),
        )


def _block(module: nn.Module, backend: Backend, traced: Callable[[Call], Call], ours: object) -> Call:
    original = type(module).forward
    run = compiled(traced(original), backend, None)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # What is checkpointed runs once more in the backward, outside of the root: both times as it is.
        if torch.compiler.is_compiling() or _inside.get() is not ours or _saves_by_hooks():
            return original(self, *args, **kwargs)
        return run(self, *args, **kwargs)

    return forward


def _saves_by_hooks() -> bool:
    return torch.is_grad_enabled() and saving_hooks(True) is not None
