"""Reversible binding of forwards, one module instance at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from twinkle_tune.errors import BindError
from twinkle_tune.kernel.parts import parts_of, unchanged, while_unchanged
from twinkle_tune.kernel.record import BELOW_HOOK, RECORD, Binding, Record, place_of, record_of, replaced_by_another
from twinkle_tune.slot import OF_THE_MODEL

__all__ = [
    "Binding",
    "bind_forward",
    "binding_of",
    "bound_call",
    "replaced_by_another",
    "restore_forward",
    "why_not_running",
]


def bind_forward(module: nn.Module, call: Callable[..., Any], binding: Binding) -> None:
    """Let ``call(module, ...)`` be the module's forward. Hooks stay as they are, accelerate's included.

    While a submodule is not as it is now (an adapter in its place, a hook on it) the class's own forward runs: the
    call may read the submodule's weights without calling it.

    Raises:
        BindError: somebody else replaced the instance's forward already (another library).
    """
    place = place_of(module)
    if replaced_by_another(module):
        other = getattr(module.__dict__[place], "__qualname__", repr(module.__dict__[place]))
        raise BindError(
            f"{binding.slot} {binding.path}: its forward was replaced on the instance by {other}; "
            "kernelize before adding hooks that wrap forward"
        )
    # Such a model calls its submodules, whatever stands there.
    parts = () if binding.slot in OF_THE_MODEL else parts_of(module)
    bound = MethodType(_named_forward(while_unchanged(call, parts) if parts else call), module)
    # Past nn.Module.__setattr__: the instance's dictionary is what __call__ looks into first.
    module.__dict__[place] = bound
    module.__dict__[RECORD] = Record(binding, bound, call, parts)


def binding_of(module: nn.Module) -> Binding | None:
    """What is bound to an instance; None if nothing is."""
    return record_of(module).binding


def bound_call(module: nn.Module) -> Callable[..., Any] | None:
    """What was given to :func:`bind_forward`, where that still stands as the instance's forward."""
    record = record_of(module)
    return record.call if record.bound is not None and _stands(module, record) else None


def why_not_running(module: nn.Module) -> str:
    """Why what is bound to an instance does not run there any more; "" where it does, or nothing is bound."""
    record = record_of(module)
    if record.binding is None:
        return ""
    if not _stands(module, record):
        return (
            "its forward was replaced after it was bound (transformers' use_kernels=True does that at each train() "
            "and eval()); kernelize again"
        )
    if record.parts and not unchanged(module, record.parts):
        return "a submodule was replaced after it was bound, or has a hook: the original runs; kernelize again"
    return ""


def restore_forward(module: nn.Module) -> None:
    """Give an instance its class's forward back; nothing happens where nothing is bound.

    Where somebody else replaced the forward after it was bound, that is left as it is, with a warning.
    """
    is_foreign = replaced_by_another(module)
    binding = record_of(module).binding
    module.__dict__.pop(RECORD, None)
    if binding is None:
        return
    if not is_foreign:
        if place_of(module) == BELOW_HOOK:
            module.__dict__[BELOW_HOOK] = MethodType(type(module).forward, module)
        else:
            module.__dict__.pop("forward", None)
        return
    warnings.warn(
        f"{binding.slot} {binding.path}: its forward was replaced by somebody else after twinkle_tune bound it: "
        "left as it is",
        stacklevel=3,
    )


def _stands(module: nn.Module, record: Record) -> bool:
    return module.__dict__.get(place_of(module)) is record.bound


def _named_forward(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same function under the name by which a pickle finds the class's forward again."""
    if not isinstance(call, FunctionType) or call.__name__ == "forward":
        return call
    twin = FunctionType(call.__code__, call.__globals__, "forward", call.__defaults__, call.__closure__)
    twin.__kwdefaults__ = call.__kwdefaults__
    twin.__dict__.update(call.__dict__)
    return twin
