"""Reversible binding of forwards, one module instance at a time."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from twinkle_tune.errors import BindError

_RECORD = "_twinkle_tune_binding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What is bound to one instance: for the reader of a report, and the mark by which it is undone.

    ``rows`` says for which row counts ("all", "1 to 128").
    """

    slot: str
    path: str
    candidate: str
    rows: str


def bind_forward(module: nn.Module, call: Callable[..., Any], binding: Binding) -> None:
    """Let ``call(module, ...)`` be the module's forward. Hooks stay as they are.

    Raises:
        BindError: somebody else replaced the instance's forward already (an accelerate hook, another library).
    """
    if replaced_by_another(module):
        other = getattr(module.__dict__["forward"], "__qualname__", repr(module.__dict__["forward"]))
        raise BindError(
            f"{binding.slot} {binding.path}: its forward was replaced on the instance by {other}; "
            "kernelize before adding hooks that wrap forward"
        )
    # Past nn.Module.__setattr__: the instance's dictionary is what __call__ looks into first.
    bound = MethodType(_named_forward(call), module)
    module.__dict__["forward"] = bound
    module.__dict__[_RECORD] = _Record(binding, bound)


class _Record:
    """What is bound, and the very object that stands as forward. A copy has its own; a pickle has none.

    A bound method is pickled by its name, so an unpickled module has its class's forward, and says so.
    """

    __slots__ = ("binding", "bound")

    def __init__(self, binding: Binding | None = None, bound: MethodType | None = None) -> None:
        self.binding, self.bound = binding, bound

    def __deepcopy__(self, memo: dict[int, Any]) -> _Record:
        return _Record(self.binding, copy.deepcopy(self.bound, memo))

    def __reduce__(self) -> tuple[type[_Record], tuple[()]]:
        return _Record, ()


def replaced_by_another(module: nn.Module) -> bool:
    """Whether the instance has a forward of its own that is neither what was bound here nor its class's."""
    forward = module.__dict__.get("forward")
    is_the_class_s = getattr(forward, "__func__", None) is type(module).forward
    return forward is not None and forward is not _record_of(module).bound and not is_the_class_s


def binding_of(module: nn.Module) -> Binding | None:
    """What is bound to an instance; None if nothing is."""
    return _record_of(module).binding


def restore_forward(module: nn.Module) -> None:
    """Give an instance its class's forward back; nothing happens where nothing is bound.

    Where somebody else replaced the forward after it was bound, that is left as it is, with a warning.
    """
    is_foreign = replaced_by_another(module)
    binding = _record_of(module).binding
    module.__dict__.pop(_RECORD, None)
    if binding is None:
        return
    if not is_foreign:
        module.__dict__.pop("forward", None)
        return
    warnings.warn(
        f"{binding.slot} {binding.path}: its forward was replaced by somebody else after twinkle_tune bound it: "
        "left as it is",
        stacklevel=3,
    )


def _record_of(module: nn.Module) -> _Record:
    found = module.__dict__.get(_RECORD)
    return found if isinstance(found, _Record) else _Record()


def _named_forward(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same function under the name by which a pickle finds the class's forward again."""
    if not isinstance(call, FunctionType) or call.__name__ == "forward":
        return call
    twin = FunctionType(call.__code__, call.__globals__, "forward", call.__defaults__, call.__closure__)
    twin.__kwdefaults__ = call.__kwdefaults__
    twin.__dict__.update(call.__dict__)
    return twin
