"""Reversible binding of forwards, one module instance at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from twinkle_tune.catalog.head import why_aside
from twinkle_tune.errors import BindError
from twinkle_tune.kernel.aside import stepping_aside
from twinkle_tune.kernel.forward import SEES_METHODS, Winner, asking, bound_forward
from twinkle_tune.kernel.generation import telling_generate
from twinkle_tune.kernel.owner import Owner, telling
from twinkle_tune.kernel.parts import parts_of, unchanged
from twinkle_tune.kernel.record import (
    BELOW_HOOK,
    RECORD,
    Binding,
    Record,
    is_ours,
    place_of,
    record_of,
    replaced_by_another,
)
from twinkle_tune.slot import HEAD, OF_THE_MODEL

__all__ = [
    "Binding",
    "bind_forward",
    "bind_owner",
    "binding_of",
    "bound_call",
    "replaced_by_another",
    "restore_forward",
    "why_not_running",
]


def bind_forward(module: nn.Module, call: Callable[..., Any], binding: Binding, *, steps_aside: bool = False) -> None:
    """Let ``call(module, ...)`` be the module's forward. Hooks stay as they are, accelerate's included.

    ``steps_aside``: whether the class's own forward runs while the originals are wanted inside of the model
    (:mod:`twinkle_tune.kernel.aside`).

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
    record = Record(module)
    # Such a model, or block, calls its submodules, whatever stands there.
    calls_parts = binding.slot in OF_THE_MODEL or getattr(call, "calls_parts", False)
    record.parts = () if calls_parts else parts_of(module)
    record.binding, record.call = binding, call
    original = type(module).forward
    if isinstance(call, Winner):
        function = call.forward(original, record.parts, stepping_aside if steps_aside else None)
    else:
        function = bound_forward(call, original, record.parts, None)
        function = stepping_aside(function, original) if steps_aside else function
    _stand(module, record, function)
    if getattr(call, "tells_generation", False):
        kind: Any = type(module)
        module.__dict__["generate"] = MethodType(telling_generate(kind.generate), record)


def bind_owner(module: nn.Module, owner: Owner, *, steps_aside: bool = False) -> None:
    """Let the module's forward, bound or its class's own, tell whose it is; one that another replaced is left alone.

    ``steps_aside`` is as of :func:`bind_forward`.
    """
    if replaced_by_another(module):
        return
    record, place = record_of(module), place_of(module)
    stands = module.__dict__.get(place)
    inner = stands.__self__.runs if isinstance(stands, MethodType) and isinstance(stands.__self__, Record) else None
    if record.module() is not module:
        record = Record(module)
    record.owner = owner
    original = type(module).forward
    plain = owner.tells.setdefault((original, steps_aside), telling(None, original, steps_aside=steps_aside))
    root: Any = record.call
    if inner is not None and getattr(root, "steps_aside", False):
        # Ways that were shown with the originals inside: a generation calls them once a token, and has nobody to tell.
        root.own = plain
        return
    _stand(module, record, plain if inner is None else telling(inner, original, steps_aside=steps_aside))


def _stand(module: nn.Module, record: Record, function: Callable[..., Any]) -> None:
    # Past nn.Module.__setattr__: the instance's dictionary is what __call__ looks into first.
    record.runs = function
    record.function = function if SEES_METHODS else asking(type(module).forward)
    module.__dict__[place_of(module)] = MethodType(record.function, record)
    module.__dict__[RECORD] = record


def binding_of(module: nn.Module) -> Binding | None:
    """What is bound to an instance; None if nothing is."""
    return record_of(module).binding


def bound_call(module: nn.Module) -> Callable[..., Any] | None:
    """What was given to :func:`bind_forward`, where that still stands as the instance's forward."""
    record = record_of(module)
    return record.call if record.call is not None and _stands(module) else None


def why_not_running(module: nn.Module) -> str:
    """Why what is bound to an instance does not run there any more; "" where it does, or nothing is bound."""
    record = record_of(module)
    if record.binding is None:
        return ""
    if not _stands(module):
        return (
            "its forward was replaced after it was bound (transformers' use_kernels=True does that at each train() "
            "and eval()); kernelize again"
        )
    if record.parts and not unchanged(module, record.parts):
        return "a submodule was replaced after it was bound, or has a hook: the original runs; kernelize again"
    if record.binding.slot == HEAD:
        return why_aside(module)
    why_not: Callable[[nn.Module], str] = getattr(record.call, "why_not", lambda module: "")
    return why_not(module)


def restore_forward(module: nn.Module) -> None:
    """Give an instance its class's forward back; nothing happens where nothing is bound.

    Where somebody else replaced the forward after it was bound, that is left as it is, with a warning.
    """
    is_foreign, is_bound = replaced_by_another(module), RECORD in module.__dict__
    binding = record_of(module).binding
    module.__dict__.pop(RECORD, None)
    if not is_bound:
        return
    if is_ours(module.__dict__.get("generate")):
        del module.__dict__["generate"]
    if not is_foreign:
        if place_of(module) == BELOW_HOOK:
            module.__dict__[BELOW_HOOK] = MethodType(type(module).forward, module)
        else:
            module.__dict__.pop("forward", None)
        return
    if binding is None:
        return  # whoever stands on top runs the class's forward below it
    warnings.warn(
        f"{binding.slot} {binding.path}: its forward was replaced by somebody else after twinkle_tune bound it: "
        "left as it is",
        stacklevel=3,
    )


def _stands(module: nn.Module) -> bool:
    """Whether what is bound runs when the module's forward is called, also below what somebody wrapped around it."""
    function, forward = record_of(module).function, module.__dict__.get(place_of(module))
    while forward is not None:
        forward = getattr(forward, "__func__", forward)
        if forward is function:
            return True
        forward = getattr(forward, "__wrapped__", None)
    return False
