"""Whether a model is as it was when a way was bound: compiled code would not see what is exchanged later."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from twinkle_tune.kernel.capturing import all_idle

_forward_of = attrgetter("forward")


class Watched:
    """A model's modules as they are. It is asked at each call of the model, and holds none of them."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._hooks = [hooks for module in modules for hooks in _hooks_of(module)]
        self._hooked, self._registered = True, -1
        self._parents = [weakref.ref(module) for module in modules if module._modules]
        self._children = self._ids()
        self._kinds: list[Any] = list({type(module): None for module in modules})
        self._forwards = list(map(_forward_of, self._kinds))
        first = next(((m, n) for m in modules for n, p in m._parameters.items() if p is not None), None)
        self._config = getattr(model, "config", None)
        self._attention = _attention_of(self._config)
        self._weight = None
        if first is not None:
            self._weight = weakref.ref(first[0]), first[1], *_kind(first[0]._parameters[first[1]])

    def is_as_it_was(self) -> bool:
        """Whether no hook came, and neither dtype, device, attention, class nor layer was exchanged."""
        if self.has_hooks():
            return False
        if self._weight is not None:
            module, name, kind, dtype, device = self._weight
            held = module()
            weight: Any = None if held is None else held._parameters.get(name)
            if type(weight) is not kind or weight.dtype is not dtype or weight.device != device:
                return False
        if self._attention is not None and _attention_of(self._config) != self._attention:
            return False
        return self.has_its_forwards() and self._ids() == self._children

    def has_its_forwards(self) -> bool:
        """Whether no class of the modules got another forward, which no guard of compiled code sees."""
        return list(map(_forward_of, self._kinds)) == self._forwards

    def has_hooks(self) -> bool:
        """Whether a module has a hook, or all have."""
        # torch counts the hooks that were ever registered: where no new one was, those without stay without.
        registered = RemovableHandle.next_id
        if registered != self._registered:
            self._hooked, self._registered = any(self._hooks) or has_global_hooks(), registered
        return self._hooked and (has_global_hooks() or (any(self._hooks) and not all_idle(self._hooks)))

    def _ids(self) -> list[int]:
        held = [module._modules.values() for parent in self._parents if (module := parent()) is not None]
        return list(map(id, chain.from_iterable(held)))


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks that do something when it is called."""
    hooks = _hooks_of(module)
    return (any(hooks) and not all_idle(hooks)) or "_hf_hook" in vars(module)


has_global_hooks: Callable[[], bool] = getattr(torch.nn.modules.module, "_has_any_global_hook", lambda: False)
"""Whether all modules of the process have a hook."""


def _attention_of(config: object) -> object:
    """What the switch of a transformers model's attention is set to; None where there is none."""
    return getattr(config, "__dict__", {}).get("_attn_implementation_internal")


def _kind(parameter: Any) -> tuple[Any, Any, Any]:
    return type(parameter), getattr(parameter, "dtype", None), getattr(parameter, "device", None)


def _hooks_of(module: nn.Module) -> tuple[Mapping[Any, Any], ...]:
    return (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
