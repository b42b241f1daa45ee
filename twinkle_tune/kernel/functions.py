"""Function slots are one place for the whole process: who replaced which function, and how each is undone alone.

A call belongs to the model whose forward is running (:mod:`twinkle_tune.kernel.owner`): another model, kernelized or
not, does not feel its winners. A call that no module makes (a function that a user calls by name) goes to whoever bound
its family first.
"""

from __future__ import annotations

import functools
import operator
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from twinkle_tune.errors import BindError
from twinkle_tune.kernel.dispatch import Family
from twinkle_tune.kernel.dispatch_function import function_dispatcher
from twinkle_tune.kernel.owner import Owner, in_a_module, is_recomputed, owner_of
from twinkle_tune.kernel.place import Place, find_place
from twinkle_tune.slot import Slot

Replacement = Callable[..., Any] | Sequence[Family]
"""What takes a function's place: one call for everything, or the families of calls that have a winner."""

_lock = threading.RLock()
_patches: dict[str, _Patch] = {}
_lately: deque[tuple[tuple[object, ...], Callable[..., Any]]] = deque(maxlen=16)


@dataclass(slots=True)
class _Patch:
    """One replaced function: what was there, and the owners' replacements in the order of binding.

    The owner None is the process: what was applied without a model is for every call.
    """

    place: Place
    raw: object
    original: Callable[..., Any]
    owners: dict[Owner | None, Replacement] = field(default_factory=dict)
    current: Callable[..., Any] | None = None

    @property
    def intact(self) -> bool:
        """Whether what we put there is still there."""
        return self.current is None or self.place.function is self.current

    def refresh(self) -> None:
        """Put the call in place that serves all owners; the original when there is none."""
        if not self.owners:
            if self.current is not None:
                self.place.put_back(self.raw)
            self.current = None
            return
        call = self._call()
        self.place.put(call)
        self.current = call

    def _call(self) -> Callable[..., Any]:
        fallback = self.original
        process = self.owners.get(None)
        if process is not None:
            fallback = process if callable(process) else _dispatcher(process, fallback)
        models = {owner: replacement for owner, replacement in self.owners.items() if owner is not None}
        if not models:
            return fallback
        return _of_models(models, self._of_nobody(), fallback)

    def _of_nobody(self) -> Callable[..., Any]:
        """What serves calls that no module makes: whoever bound their family first."""
        families: list[Family] = []
        fallback = self.original
        for replacement in self.owners.values():
            if callable(replacement):
                # The first that takes every call takes what no family before it took.
                fallback = replacement
                break
            families += [f for f in replacement if not any(f.same_calls(known) for known in families)]
        return _dispatcher(families, fallback) if families else fallback


def _dispatcher(families: Sequence[Family], fallback: Callable[..., Any]) -> Callable[..., Any]:
    """The dispatcher of these very families: the one that was made before, if it was made lately.

    A model that is compiled is compiled again for each function that it has not met: bound, restored and bound again
    eight times (as when both states are timed in turn), it would meet torch.compile's limit, and run eagerly from
    then on.
    """
    return _made_lately((fallback, *families), lambda: function_dispatcher(families, fallback))


def _of_models(
    models: Mapping[Owner, Replacement], nobody: Callable[..., Any], fallback: Callable[..., Any]
) -> Callable[..., Any]:
    """Each owner's calls to its own replacement, calls of no module to ``nobody``, all others to ``fallback``."""
    calls = [(o, call if callable(call) else _dispatcher(call, fallback)) for o, call in models.items()]
    (first, call), *rest = calls
    others = _made_lately(
        (nobody, fallback, *(each for pair in rest for each in pair)), lambda: _others(rest, nobody, fallback)
    )
    bound = models[first]
    families, mine = ((), call) if callable(bound) else (tuple(bound), fallback)
    make = functools.partial(function_dispatcher, families, mine, owner=first, others=others)
    return _made_lately((first, mine, others, *families), make)


def _others(
    calls: Sequence[tuple[Owner, Callable[..., Any]]], nobody: Callable[..., Any], fallback: Callable[..., Any]
) -> Callable[..., Any]:
    def others(running: Owner | None, compiling: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for owner, call in calls:
            if running is owner and (compiling or not (torch.is_grad_enabled() and is_recomputed())):
                return call(*args, **kwargs)
        if running is None and not compiling and not in_a_module():
            return nobody(*args, **kwargs)
        return fallback(*args, **kwargs)

    return others


def _made_lately(key: tuple[object, ...], make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    for known, call in _lately:
        if len(known) == len(key) and all(map(operator.is_, known, key)):
            return call
    call = make()
    _lately.append((key, call))
    return call


def original_function(target: str) -> Callable[..., Any]:
    """The function of "module:name" as it was before anything was bound there.

    Raises:
        RegistrationError: there is no such function.
    """
    with _lock:
        patch = _patches.get(target)
        return patch.original if patch is not None else find_place(target).function


def original_of(target: str, value: object) -> object:
    """What stood at "module:name", where ``value`` stands now, before anything was bound there."""
    with _lock:
        patch = _patches.get(target)
        return patch.original if patch is not None and patch.current is value else value


def bind_functions(model: nn.Module | None, chosen: Mapping[Slot, Replacement]) -> None:
    """Put replacements in place, on behalf of a model; all of them or, on an error, none.

    They serve the calls that the model makes (:func:`twinkle_tune.kernel.patch.bind_owner` lets its forwards tell), and
    those that no module makes and nobody bound before. What was bound for a model is undone by
    :func:`unbind_functions`, or when the model is gone.

    Args:
        model: the owner; None for the process, whoever calls.
        chosen: by function slot, what takes its place.
    """
    _bind(None if model is None else owner_of(model), chosen)


def _bind(owner: Owner | None, chosen: Mapping[Slot, Replacement]) -> None:
    with _lock:
        done: list[tuple[_Patch, Replacement | None]] = []
        try:
            for slot, replacement in chosen.items():
                patch = _patches.get(slot.target)
                if patch is None:
                    place = find_place(slot.target)
                    patch = _patches[slot.target] = _Patch(place=place, raw=place.raw, original=place.function)
                if not patch.intact:
                    raise BindError(
                        f"{slot.target} was replaced by someone else after twinkle_tune bound it; "
                        "undo that replacement first"
                    )
                done.append((patch, patch.owners.get(owner)))
                patch.owners[owner] = replacement
                patch.refresh()
        except BaseException:
            for patch, before in reversed(done):
                if before is None:
                    patch.owners.pop(owner, None)
                else:
                    patch.owners[owner] = before
                patch.refresh()
            _forget_unused()
            raise
        if owner is not None and chosen:
            _undo_with(owner)


def _undo_with(owner: Owner) -> None:
    """What is bound for a model is undone when the model is gone, and a copy of the model has it too."""
    model = owner.model()
    if model is not None and owner.finalizer is None:
        owner.finalizer = weakref.finalize(model, _unbind, owner)
        owner.copy_to = _copy_of(owner)


def _copy_of(owner: Owner) -> Callable[[Owner], None]:
    of = weakref.ref(owner)

    def copy_to(twin: Owner) -> None:
        with _lock:
            for patch in _patches.values():
                bound = patch.owners.get(of())
                if bound is not None and patch.intact:
                    patch.owners[twin] = bound
                    patch.refresh()
            _undo_with(twin)

    return copy_to


def unbind_functions(model: nn.Module | None, keep: Collection[str] = ()) -> None:
    """Undo what :func:`bind_functions` did on behalf of a model (or of the process); others' stay bound.

    Args:
        keep: the targets that stay bound for the model too.
    """
    _unbind(None if model is None else owner_of(model), keep)


@contextmanager
def functions_aside(model: nn.Module) -> Iterator[None]:
    """Within, nothing is bound on behalf of a model; afterwards it is again, in its place among what others bound."""
    owner = owner_of(model)
    with _lock:
        bound = [(t, patch, dict(patch.owners)) for t, patch in _patches.items() if owner in patch.owners]
        _unbind(owner)
    try:
        yield
    finally:
        with _lock:
            for target, patch, owners in bound:
                now = _patches.setdefault(target, patch)
                if now.current is None and now.place.function is not now.original:
                    continue  # somebody else replaced the function meanwhile
                order = [each for each in owners if each is owner or each in now.owners]
                now.owners = {each: owners[each] if each is owner else now.owners[each] for each in order} | now.owners
                if now.intact:
                    now.refresh()
            _forget_unused()
            if bound:
                _undo_with(owner)


def why_function_not_running(model: nn.Module, slot_name: str) -> str:
    """Why what a model bound for a function slot does not run any more; "" where it does."""
    owner = owner_of(model)
    for target, patch in _patches.items():
        if target.replace(":", ".") == slot_name and owner in patch.owners:
            return "" if patch.intact else "the function was replaced by someone else after it was bound"
    return "it is not bound any more; kernelize again"


def _unbind(owner: Owner | None, keep: Collection[str] = ()) -> None:
    with _lock:
        for target, patch in list(_patches.items()):
            if owner not in patch.owners or target in keep:
                continue
            del patch.owners[owner]
            if patch.intact:
                patch.refresh()
            else:
                warnings.warn(
                    f"{target} was replaced by someone else after twinkle_tune bound it: left as it is",
                    stacklevel=3,
                )
        _forget_unused()
        if owner is not None and owner.finalizer is not None and not any(owner in p.owners for p in _patches.values()):
            owner.finalizer.detach()
            owner.finalizer = None


def _forget_unused() -> None:
    for target in [t for t, patch in _patches.items() if not patch.owners]:
        del _patches[target]
