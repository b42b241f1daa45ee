"""A bound layer's submodules: whether they are still what they were when it was bound.

A kernel for a whole layer may read ``self.gate_proj.weight`` and never call ``self.gate_proj``. An adapter that
takes the submodule's place later (LoRA), a quantised twin, a sharded one or a hook on it would then be left out, and
nobody would see that. So it is looked for at each call, which costs some comparisons a submodule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from twinkle_tune.kernel.record import Parts, replaced_by_another

_PLAIN = frozenset({nn.Parameter, Tensor})
_AS_PLAIN = frozenset({"FakeTensor", "FunctionalTensor", "DTensor"})
"""Classes that tracers put in, and a sharded weight, which is plain again while its layer runs."""


def parts_of(module: nn.Module) -> Parts:
    """The submodules as they are."""
    return tuple(_part(name, part) for name, part in module._modules.items() if part is not None)


def _part(name: str, part: nn.Module) -> tuple[str, type[nn.Module], str, type, tuple[str, ...], Parts]:
    weight = next((own for own, parameter in part._parameters.items() if parameter is not None), "")
    empty = tuple(own for own, parameter in part._parameters.items() if parameter is None)
    return name, type(part), weight, type(part._parameters.get(weight)), empty, parts_of(part)


def unchanged(module: nn.Module, parts: Parts) -> bool:
    """Whether the submodules are of these classes, their weights plain ones and no more of them, and none has a hook or
    another forward."""
    found = module._modules
    for name, kind, weight, was, empty, below in parts:
        part = found.get(name)
        if part is None or part.__class__ is not kind or part._forward_pre_hooks or part._forward_hooks:
            return False
        own = part.__dict__
        if "forward" in own and ("_hf_hook" in own or replaced_by_another(part)):
            return False
        if weight:
            now = part._parameters.get(weight).__class__
            if now is not was and now not in _PLAIN and now.__name__ not in _AS_PLAIN:
                return False  # a subclass that computes in its own way: quantised, sharded
        for own_name in empty:
            if part._parameters.get(own_name) is not None:
                return False
        if below and not unchanged(part, below):
            return False
    return True


def while_unchanged(call: Callable[..., Any], parts: Parts) -> Callable[..., Any]:
    """A forward that is ``call`` while the submodules are as they were, and otherwise the class's own."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if unchanged(self, parts):
            return call(self, *args, **kwargs)
        return type(self).forward(self, *args, **kwargs)

    return forward
