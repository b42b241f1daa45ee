"""Kernels that step aside while the whole model runs in a way that was shown with the originals inside of it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch

from twinkle_tune.kernel.forward import Call, dressed, run_original


class _Traced:
    """Whether what is being traced by torch.compile, which cannot read a context variable, has originals inside."""

    def __init__(self) -> None:
        # On the instance, where torch.compile finds it again after it was written to.
        self.aside = False


aside: ContextVar[bool] = ContextVar("twinkle_tune_aside", default=False)
"""The same for what is not compiled."""
_traced = _Traced()


def is_aside() -> bool:
    """Whether what is bound inside of the model must be its original now."""
    return _traced.aside if torch.compiler.is_compiling() else aside.get()


def with_originals(forward: Call) -> Call:
    """A forward, to be compiled, that is traced with the originals inside."""

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        before, _traced.aside = _traced.aside, True
        try:
            return forward(self, *args, **kwargs)
        finally:
            _traced.aside = before

    return run


def with_attention(forward: Call, value: str) -> Call:
    """A forward, to be compiled as one graph, that is traced with the switch of the model's attention set.

    What is traced sets the switch and puts it back: nothing is written to the model's configuration, which other
    threads may read meanwhile.
    """

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = self.config
        before, config._attn_implementation_internal = config._attn_implementation_internal, value
        try:
            return forward(self, *args, **kwargs)
        finally:
            config._attn_implementation_internal = before

    return run


def stepping_aside(function: Call, original: Call) -> Call:
    """A bound forward, which takes a record (or a module) first, that steps aside."""

    def forward(held: Any, /, *args: Any, **kwargs: Any) -> Any:
        return run_original(held, *args, **kwargs) if is_aside() else function(held, *args, **kwargs)

    return dressed(forward, original)
