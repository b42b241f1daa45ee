"""torch.compile of the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch

from twinkle_tune.slot import Implementation, Slot
from twinkle_tune.source.digest import digest_code, digest_text
from twinkle_tune.source.inductor import Inductor


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileSource:
    """torch.compile, with default options, of the original alone."""

    kind: str = "compile"

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """The compiled original; nothing is compiled before its first call."""
        made = torch.compile(_apart(original), backend=Inductor())
        return Implementation(call=made, per_shape=True)

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of the original's code and torch's version."""
        return digest_text(digest_code(original), str(torch.__version__))


def _apart(original: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of the function with a code object of its own.

    torch.compile keeps what it compiled, and counts recompilations, by code object: without a copy every width
    and every candidate of one class would share one cache, and its limit of recompilations.
    """
    if isinstance(original, FunctionType):
        copy = FunctionType(
            original.__code__.replace(),
            original.__globals__,
            original.__name__,
            original.__defaults__,
            original.__closure__,
        )
        copy.__kwdefaults__ = original.__kwdefaults__
        copy.__qualname__ = original.__qualname__
        copy.__module__ = original.__module__
        return copy

    def call(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    return _apart(call)
