"""Whose forward is running: a function is the whole process's, its winner one model's.

What is bound in a function's place asks here at each call. The model's own forward tells, and so does that of every
part of it that holds layers of layers (a decoder's blocks): gradient checkpointing runs those once more in the
backward, outside of the model's forward and perhaps in another thread.

Checkpointing may also begin below what tells. Nobody would tell when such a region is run once more, so the original
runs there the first time, too: a winner that saves other tensors than the original would be an error of torch's then.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from types import FrameType
from typing import Any

import torch
from torch import nn

from twinkle_tune.call.saving import saving_hooks
from twinkle_tune.kernel.aside import aside, is_aside
from twinkle_tune.kernel.forward import Call, dressed, run_original
from twinkle_tune.kernel.record import Record, record_of

_owners: weakref.WeakKeyDictionary[nn.Module, Owner] = weakref.WeakKeyDictionary()
_CALLS = frozenset({nn.Module._call_impl.__code__, nn.Module._wrapped_call_impl.__code__})


class Owner:
    """A model, as the owner of what is bound in the places of functions."""

    __slots__ = ("__weakref__", "copy_to", "finalizer", "model", "tells")

    def __init__(self, model: nn.Module) -> None:
        self.model = weakref.ref(model)
        self.finalizer: weakref.finalize[Any, Any] | None = None
        self.copy_to: Callable[[Owner], None] | None = None
        # The same at each binding: torch.compile compares functions.
        self.tells: dict[tuple[Call, bool], Call] = {}

    def copied(self, memo: dict[int, Any]) -> Owner:
        """The owner that a copy of the model is, with the same functions bound; of a part alone the model's own."""
        model = self.model()
        twin = memo.get(id(model)) if model is not None else None
        if twin is None:
            return self
        owner = owner_of(twin)
        if id(owner) not in memo and self.copy_to is not None:
            memo[id(owner)] = owner
            self.copy_to(owner)
        return owner


class _Traced:
    """Whose forward is being traced by torch.compile, which cannot read a context variable."""

    def __init__(self) -> None:
        # On the instance, where torch.compile finds it again after it was written to.
        self.owner: Owner | None = None


running: ContextVar[Owner | None] = ContextVar("twinkle_tune_owner", default=None)
region: ContextVar[Any] = ContextVar("twinkle_tune_region", default=None)
traced = _Traced()


def owner_of(model: nn.Module) -> Owner:
    """The owner that a model is, always the same."""
    found = _owners.get(model)
    if found is None:
        found = _owners[model] = Owner(model)
    return found


def telling_parts(model: nn.Module) -> tuple[nn.Module, ...]:
    """The modules whose forward tells whose it is: the model, and all that hold layers of layers."""
    inner = (m for m in model.modules() if m is not model and any(child._modules for child in m.children()))
    return (model, *(m for m in inner if not isinstance(m, (nn.ModuleList, nn.ModuleDict))))


class OriginalsInside:
    """Within, what is not compiled has the originals: of layers, and of functions, which nobody owns meanwhile.

    A class, as a generation enters it once a token, where a generator's frame costs several times as much.
    """

    __slots__ = ("_aside", "_owner")

    def __enter__(self) -> None:
        self._aside, self._owner = aside.set(True), running.set(None)

    def __exit__(self, *_: object) -> None:
        running.reset(self._owner)
        aside.reset(self._aside)


def with_kernels(forward: Call) -> Call:
    """A forward, to be compiled, that is traced with whatever is bound inside: it tells whose it is, as a model's does.

    The model's own, which stands around it, is not traced.
    """

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        before, traced.owner = traced.owner, record_of(self).owner
        try:
            return forward(self, *args, **kwargs)
        finally:
            traced.owner = before

    return run


def telling(inner: Call | None, original: Call, *, steps_aside: bool) -> Call:
    """A forward that tells whose it is, around another (None: the class's own).

    ``steps_aside``: whether it tells nobody's while the originals are wanted inside.
    """
    run = run_original if inner is None else inner

    def forward(held: Any, /, *args: Any, **kwargs: Any) -> Any:
        if steps_aside and is_aside():
            return run(held, *args, **kwargs)
        owner = held.owner if held.__class__ is Record else record_of(held).owner
        if torch.compiler.is_compiling():
            before, traced.owner = traced.owner, owner
            try:
                return run(held, *args, **kwargs)
            finally:
                traced.owner = before
        hooks = saving_hooks(True)
        token, place = running.set(owner), region.set(None if hooks is None else hooks[0])
        try:
            return run(held, *args, **kwargs)
        finally:
            running.reset(token)
            region.reset(place)

    return dressed(forward, original)


def is_recomputed() -> bool:
    """Whether we are in a region of gradient checkpointing that began after the last forward that told whose it is."""
    hooks = saving_hooks(True)
    return hooks is not None and hooks[0] is not region.get()


def in_a_module() -> bool:
    """Whether a module is being called, or a backward runs: by nobody who told whose it is, so by no owner."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _CALLS:
            return True
        frame = frame.f_back
    return torch._C._current_graph_task_id() != -1
