"""What is noted at a module instance that has something bound, and whose forward stands there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import nn

RECORD = "_twinkle_tune_binding"
"""The attribute that holds the record."""
BELOW_HOOK = "_old_forward"
"""Where accelerate keeps the forward that its hook runs."""
Parts = tuple[tuple[str, type[nn.Module], "Parts"], ...]
"""Name, class and submodules of each submodule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What is bound to one instance: for the reader of a report, and the mark by which it is undone.

    ``rows`` says for which row counts ("all", "1 to 128").
    """

    slot: str
    path: str
    candidate: str
    rows: str


class Record:
    """What is bound, and the very object that stands as forward. A copy has its own; a pickle has none.

    A bound method is pickled by its name, so an unpickled module has its class's forward, and says so.
    """

    __slots__ = ("binding", "bound", "call", "parts")

    def __init__(
        self,
        binding: Binding | None = None,
        bound: MethodType | None = None,
        call: Callable[..., Any] | None = None,
        parts: Parts = (),
    ) -> None:
        self.binding, self.bound, self.call, self.parts = binding, bound, call, parts

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        return Record(self.binding, copy.deepcopy(self.bound, memo), self.call, self.parts)

    def __reduce__(self) -> tuple[type[Record], tuple[()]]:
        return Record, ()


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
    return forward is not None and forward is not record_of(module).bound and not is_the_class_s
