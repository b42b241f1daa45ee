"""torch.compile of the original."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import torch

from twinkle_tune.slot import Implementation, Slot
from twinkle_tune.source.digest import digest_code, digest_text
from twinkle_tune.source.inductor import Inductor

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileSource:
    """torch.compile, with default options, of the original alone."""

    kind: str = "compile"

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """The compiled original; nothing is compiled before its first call."""
        made = torch.compile(_apart(original), backend=_backend())
        return Implementation(call=made, per_shape=True)

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of the original's code and torch's version."""
        return digest_text(digest_code(original), str(torch.__version__))


def _backend() -> Any:
    """What torch.compile compiles with by default; where that is inductor, as ours.

    Who put a partial of torch.compile with a backend of their own in its place (OpenVINO's, say) has another default.
    """
    usual = inspect.signature(torch.compile).parameters["backend"].default
    return Inductor() if usual in (None, "inductor") else usual


def graphs_made() -> int:
    """How many graphs torch.compile has made in this process: where a first call makes none, it ran uncompiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def why_uncompiled() -> str:
    """What a first call that made no graph is refused with."""
    return (
        "torch.compile ran it uncompiled: at the first call no graph was made of it, because its code is skipped or "
        "disabled for torch.compile, torch.compile is switched off here, or a limit of recompilations was reached"
    )


def _apart(original: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a code object of its own.

    torch.compile keeps what it compiled, and counts recompilations, by code object: without that every width
    and every candidate of one class would share one cache, and its limit of recompilations. A function of torch's own
    files it would call from one small function for all, which is the code object then; called from a function of ours
    it is compiled as part of that.
    """
    if not isinstance(original, FunctionType) or original.__code__.co_filename.startswith(_TORCH):

        def call(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs)

        return _copied(call)
    return _copied(original)


def _copied(function: Any) -> FunctionType:
    copy = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    copy.__module__ = function.__module__
    return copy
