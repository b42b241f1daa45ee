"""Where slots are called, and standing in for them for a while.

A stand-in takes exactly the place that a kernel would take: the ``forward`` of a module instance, or the
attribute of a module or class that holds a function.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from twinkle_tune.kernel.place import find_place
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.workload import target_of

_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """One module instance of a layer slot, or a function slot.

    Attributes:
        slot: the slot.
        path: the instance's path in the model; "" for a function and for the model itself.
        module: the instance; None for a function.
        target: "module:qualified.name" of the instance's own class, or of the function.
    """

    slot: Slot
    path: str
    module: nn.Module | None
    target: str

    @property
    def title(self) -> str:
        """How a person is told of it: "RMSNorm model.norm", or the function slot's name."""
        return self.slot.name if self.module is None else f"{self.slot.name} {self.path}".rstrip()


Wrap = Callable[[Site, Callable[..., Any]], Callable[..., Any]]
"""Makes the stand-in, a new function, for a place from what is called there now."""


def sites_of(occurrences: Sequence[Occurrence]) -> tuple[Site, ...]:
    """Every place of the slots, in their order."""
    sites: list[Site] = []
    for occurrence in occurrences:
        slot = occurrence.slot
        if slot.kind is SlotKind.FUNCTION:
            sites.append(Site(slot=slot, path="", module=None, target=slot.target))
        for path, module in occurrence.instances:
            sites.append(Site(slot=slot, path=path, module=module, target=target_of(type(module))))
    return tuple(sites)


@contextmanager
def replaced(sites: Sequence[Site], wrap: Wrap) -> Iterator[None]:
    """While this is open, every place calls its stand-in; afterwards everything is as before, errors or not.

    Raises:
        RegistrationError: a function slot's target cannot be found.
    """
    with ExitStack() as undo:
        for site in sites:
            if site.module is not None:
                _replace_forward(undo, site, site.module, wrap)
            else:
                _replace_function(undo, site, wrap)
        yield


def _replace_forward(undo: ExitStack, site: Site, module: nn.Module, wrap: Wrap) -> None:
    own = module.__dict__
    before = own.get("forward", _MISSING)
    original = module.forward
    stand_in = _named_like(original, wrap(site, original))

    def restore() -> None:
        if before is _MISSING:
            own.pop("forward", None)
        else:
            own["forward"] = before

    undo.callback(restore)
    own["forward"] = stand_in


def _replace_function(undo: ExitStack, site: Site, wrap: Wrap) -> None:
    place = find_place(site.slot.target)
    before = place.raw
    # Not ``before``: a method may be inherited, and then binds as it does in the class that it comes from.
    raw = inspect.getattr_static(place.owner, place.name)
    stand_in = _like(raw, site, wrap, in_class=isinstance(place.owner, type))
    undo.callback(place.put_back, before)
    setattr(place.owner, place.name, stand_in)


def _like(raw: Any, site: Site, wrap: Wrap, *, in_class: bool) -> object:
    """A stand-in that binds as ``raw`` does: a staticmethod for a staticmethod, and so on."""
    if isinstance(raw, (staticmethod, classmethod)):
        return type(raw)(_named_like(raw.__func__, wrap(site, raw.__func__)))
    stand_in = _named_like(raw, wrap(site, raw))
    # A callable object in a class is not bound when it is looked up; a function would be.
    is_unbound = in_class and not hasattr(type(raw), "__get__")
    return staticmethod(stand_in) if is_unbound else stand_in


def _named_like(raw: Callable[..., Any], stand_in: Callable[..., Any]) -> Callable[..., Any]:
    # Of an nn.Module that is used as a function the attributes must not be taken over: they are its state.
    updated = () if isinstance(raw, nn.Module) else functools.WRAPPER_UPDATES
    return functools.update_wrapper(stand_in, raw, updated=updated)


def eagerly() -> AbstractContextManager[object]:
    """While this is open nothing runs compiled."""
    # Compiled code would neither call the stand-ins nor compile them well. Where dynamo was never imported
    # nothing is compiled, and importing it takes a second.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
