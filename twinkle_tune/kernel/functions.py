"""Function slots are one for the whole process: who replaced which function, and how each can be undone alone."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from twinkle_tune.errors import BindError
from twinkle_tune.kernel.dispatch import Family
from twinkle_tune.kernel.dispatch_function import function_dispatcher
from twinkle_tune.kernel.place import Place, find_place
from twinkle_tune.slot import Slot

Replacement = Callable[..., Any] | Sequence[Family]
"""What takes a function's place: one call for everything, or the families of calls that have a winner."""

_lock = threading.RLock()
_patches: dict[str, _Patch] = {}
_dispatchers: list[tuple[tuple[Family, ...], Callable[..., Any], Callable[..., Any]]] = []
_DISPATCHERS_KEPT = 16
"""The last so many: a model is bound and restored by turns while it is timed."""
_PROCESS = 0
"""The owner of what was applied without a model."""


@dataclass(slots=True)
class _Patch:
    """One replaced function: what was there, and the owners' replacements in the order of binding."""

    place: Place
    raw: object
    original: Callable[..., Any]
    owners: dict[int, Replacement] = field(default_factory=dict)
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
        families: list[Family] = []
        fallback = self.original
        for replacement in self.owners.values():
            if callable(replacement):
                # The first that takes every call takes what no family before it took.
                fallback = replacement
                break
            families += [f for f in replacement if not any(f.same_calls(known) for known in families)]
        call = _dispatcher(families, fallback) if families else fallback
        self.place.put(call)
        self.current = call


def _dispatcher(families: list[Family], fallback: Callable[..., Any]) -> Callable[..., Any]:
    """The dispatcher, the very same for the same families: torch.compile compiles anew where a function is another."""
    for known, last, call in _dispatchers:
        same = len(known) == len(families) and all(a is b for a, b in zip(known, families, strict=True))
        if same and last is fallback:
            return call
    call = function_dispatcher(families, fallback)
    _dispatchers.append((tuple(families), fallback, call))
    del _dispatchers[:-_DISPATCHERS_KEPT]
    return call


def original_function(target: str) -> Callable[..., Any]:
    """The function of "module:name" as it was before anything was bound there.

    Raises:
        RegistrationError: there is no such function.
    """
    with _lock:
        patch = _patches.get(target)
        return patch.original if patch is not None else find_place(target).function


def bind_functions(model: nn.Module | None, chosen: Mapping[Slot, Replacement]) -> None:
    """Put replacements in place, on behalf of a model; all of them or, on an error, none.

    A call belongs to whoever bound its family first: binding another model changes nothing for the first. What was
    bound for a model is undone by :func:`unbind_functions`, or when the model is garbage.

    Args:
        model: the owner; None for the process.
        chosen: by function slot, what takes its place.
    """
    owner = _PROCESS if model is None else id(model)
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
    if model is not None and chosen:
        weakref.finalize(model, _unbind, owner)


def unbind_functions(model: nn.Module | None, keep: Collection[str] = ()) -> None:
    """Undo what :func:`bind_functions` did on behalf of a model (or of the process); others' stay bound.

    Args:
        keep: the targets that stay bound for the model too.
    """
    _unbind(_PROCESS if model is None else id(model), keep)


def _unbind(owner: int, keep: Collection[str] = ()) -> None:
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


def _forget_unused() -> None:
    for target in [t for t, patch in _patches.items() if not patch.owners]:
        del _patches[target]
