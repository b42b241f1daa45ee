"""All that can be reached from a model, as plain values that can be compared: what a run must leave as it was."""

from __future__ import annotations

import random
from collections import deque
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor, nn

Trace = dict[str, object]

_NOT_FOLLOWED = (type, ModuleType, FunctionType, MethodType)


def trace_of(model: nn.Module) -> Trace:
    """Every plain value, tensor and container below a model by its path: values by value, tensors by their bits.

    Objects are also told apart by identity: a tensor that another one took the place of is a difference.
    """
    found: Trace = {}
    _look(model, "model", found, set(), {})
    return found


def _look(value: Any, path: str, found: Trace, seen: set[int], kept: dict[int, Any]) -> None:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        found[path] = value
        return
    # Of temporary values the address would be another's the next time.
    found[path] = (type(value).__name__, id(value) if not isinstance(value, (tuple, MethodType)) else None)
    if id(value) in seen:
        return
    seen.add(id(value))
    kept[id(value)] = value
    if isinstance(value, Tensor):
        found[path + ".bits"] = _bits(value)
        found[path + ".grad"] = None if not value.is_leaf or value.grad is None else (id(value.grad), _bits(value.grad))
        found[path + ".form"] = (value.requires_grad, value.shape, value.dtype, _address(value))
        _look(vars(value), path + ".vars", found, seen, kept)
        return
    state = _state(value)
    if state is not None:
        found[path + ".state"] = state
    for name, item in _items(value):
        _look(item, f"{path}.{name}", found, seen, kept)


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"{number}[{key!r:.40}]", item) for number, (key, item) in enumerate(value.items())]
    if isinstance(value, (list, tuple, deque)):
        return [(str(number), item) for number, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [(repr(item), item) for item in sorted(value, key=repr)]
    if isinstance(value, _NOT_FOLLOWED) or type(value).__module__.startswith(("torch.", "weakref")):
        is_module = isinstance(value, nn.Module)
        return [(name, item) for name, item in vars(value).items()] if is_module else []
    return list(getattr(value, "__dict__", {}).items())


def _state(value: Any) -> object:
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, numpy.ndarray):
        return value.tobytes()
    if isinstance(value, numpy.random.Generator):
        return str(value.bit_generator.state)
    return None


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr() if tensor.layout is torch.strided and type(tensor) in (Tensor, nn.Parameter) else 0


def _bits(tensor: Tensor) -> object:
    plain = tensor.detach()
    if plain.layout is torch.sparse_csr:
        return tuple(_bits(part) for part in (plain.crow_indices(), plain.col_indices(), plain.values()))
    if plain.layout is not torch.strided or plain.device.type == "meta":
        return None
    return plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
