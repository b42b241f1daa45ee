"""What is noted at a module instance that has something bound, and whose forward stands there."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from torch import nn

RECORD = "_twinkle_tune_binding"
"""The attribute that holds the record."""
BELOW_HOOK = "_old_forward"
"""Where accelerate keeps the forward that its hook runs."""
Parts = tuple[tuple[str, type[nn.Module], str, type, tuple[str, ...], "Parts"], ...]
"""Name and class of each submodule, name ("" for none) and class of its first parameter, names of those that are
None, and its own submodules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What is bound to one instance: for the reader of a report, and the mark by which it is undone.

    ``rows`` says for which row counts ("all", "1 to 128"). ``is_checked``: whether a profile compared it with the
    original and timed it; what is bound because it was registered was not.
    """

    slot: str
    path: str
    candidate: str
    rows: str
    is_checked: bool = field(default=True, compare=False)


def _nobody() -> None:
    return None


class Record:
    """What is bound to a module, and the very object that stands as its forward. A copy has its own; a pickle has none.

    The forward is a method of the record, not of the module, and the record refers to the module weakly: a module
    whose own dictionary holds a method of it would be freed by the cyclic collector alone.

    A bound method is pickled by its name, so an unpickled module has its class's forward, and says so.

    Attributes:
        module: gives the module; None once that is gone.
        binding: what is bound; None where the forward only tells whose model it is (:mod:`twinkle_tune.kernel.owner`).
        call: what was given to be bound.
        function: what stands as forward, as a method of this record.
        runs: what that function runs: itself, unless it asks here (:func:`twinkle_tune.kernel.forward.asking`).
        parts: the submodules as they were then.
        owner: the model that its forward tells of; None where it tells of none.
    """

    __slots__ = ("binding", "call", "function", "module", "owner", "parts", "runs")

    def __init__(self, module: nn.Module | None = None) -> None:
        self.module: Callable[[], nn.Module | None] = _nobody if module is None else weakref.ref(module)
        self.binding: Binding | None = None
        self.call: Callable[..., Any] | None = None
        self.function: Callable[..., Any] | None = None
        self.runs: Callable[..., Any] | None = None
        self.parts: Parts = ()
        self.owner: Any = None

    @property
    def forward(self) -> Callable[..., Any]:
        """The class's own forward: what a pickled one comes back as."""
        module = self.module()
        if module is None:
            raise ReferenceError("the module of this forward is gone; keep the model, not its forward alone")
        return MethodType(type(module).forward, module)

    @property
    def generate(self) -> Callable[..., Any]:
        """The class's own, likewise."""
        module: Any = self.module()
        if module is None:
            raise ReferenceError("the model of this generate is gone; keep the model")
        return MethodType(type(module).generate, module)

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        module = self.module()
        # A module that is copied is in the memo before its attributes are; one that is not stays what is spoken of.
        twin = Record(memo.get(id(module), module))
        twin.binding, twin.call, twin.parts = self.binding, self.call, self.parts
        twin.function, twin.runs = self.function, self.runs
        if self.owner is not None:
            twin.owner = self.owner.copied(memo)
        return twin

    def __reduce__(self) -> tuple[type[Record], tuple[nn.Module | None]]:
        return Record, (self.module(),)


def record_of(module: nn.Module) -> Record:
    """What is noted at an instance; an empty record where nothing is."""
    found = module.__dict__.get(RECORD)
    return found if isinstance(found, Record) else Record()


def place_of(module: nn.Module) -> str:
    """The attribute that holds the instance's forward: below accelerate's hook where there is one."""
    return BELOW_HOOK if {"_hf_hook", BELOW_HOOK} <= module.__dict__.keys() else "forward"


def replaced_by_another(module: nn.Module) -> bool:
    """Whether the instance has a forward of its own that is neither what was bound here nor its class's.

    An accelerate hook is none: what counts is what stands below it.
    """
    forward = module.__dict__.get(place_of(module))
    is_the_class_s = getattr(forward, "__func__", None) is type(module).forward
    return forward is not None and not is_ours(forward) and not is_the_class_s


def is_ours(forward: object) -> bool:
    """Whether a forward was bound here, to this module or to the one that it was copied from."""
    return isinstance(forward, MethodType) and isinstance(forward.__self__, Record)
