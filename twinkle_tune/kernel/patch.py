"""Reversible binding of forwards, one module instance at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
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
    bound = MethodType(call, module)
    module.__dict__["forward"] = bound
    # The very object that stands as forward: a deep copy of the module keeps the two one.
    module.__dict__[_RECORD] = (binding, bound)


def replaced_by_another(module: nn.Module) -> bool:
    """Whether the instance has a forward of its own that is not what :func:`bind_forward` put there."""
    _, bound = module.__dict__.get(_RECORD, (None, None))
    return "forward" in module.__dict__ and module.__dict__["forward"] is not bound


def binding_of(module: nn.Module) -> Binding | None:
    """What is bound to an instance; None if nothing is."""
    binding, _ = module.__dict__.get(_RECORD, (None, None))
    return binding if isinstance(binding, Binding) else None


def restore_forward(module: nn.Module) -> None:
    """Give an instance its class's forward back; nothing happens where nothing is bound.

    Where somebody else replaced the forward after it was bound, that is left as it is, with a warning.
    """
    is_foreign = replaced_by_another(module)
    binding, _ = module.__dict__.pop(_RECORD, (None, None))
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
