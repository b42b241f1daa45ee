"""All that a model and its process hold, noted so that two moments can be compared."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn

_HELD_APART = frozenset({"_parameters", "_buffers", "_modules"})
_DEEPEST = 4


def noted(model: nn.Module) -> dict[str, object]:
    """Every parameter, buffer and plain attribute of every module by its path, configurations, flags, random states."""
    found: dict[str, object] = {}
    for path, module in model.named_modules():
        found[f"{path}: class"] = type(module)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            found[f"{path}.{name}"] = _tensor(tensor)
            if tensor is not None and tensor.grad is not None:
                found[f"{path}.{name}: grad"] = _tensor(tensor.grad)
        for name, value in vars(module).items():
            if name not in _HELD_APART:
                found[f"{path}: {name}"] = _plain(value)
    found["random: torch"] = _Exact(torch.random.get_rng_state())
    found["random: numpy"] = repr(numpy.random.get_state(legacy=False))
    found["random: python"] = random.getstate()
    found["flags: torch"] = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )
    return found


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """What is not the same, by name; at most ten."""
    return list(_differences(one, other))[:10]


def _differences(one: Mapping[str, object], other: Mapping[str, object]) -> Iterator[str]:
    for name in one.keys() | other.keys():
        if name not in one:
            yield f"{name} is new"
        elif name not in other:
            yield f"{name} is gone"
        elif one[name] != other[name]:
            yield f"{name} was {str(one[name])[:60]}, is {str(other[name])[:60]}"


class _Exact:
    """A tensor's values, kept apart from it and compared bit by bit, and the tensor that holds them."""

    def __init__(self, tensor: Tensor) -> None:
        self.form = (tensor.dtype, tuple(tensor.shape), tensor.requires_grad)
        self.values = tensor.detach().clone() if tensor.device.type != "meta" else torch.zeros(0)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Exact) or self.form != other.form:
            return False
        return torch.equal(torch.nan_to_num(self.values), torch.nan_to_num(other.values)) and torch.equal(
            self.values.isnan(), other.values.isnan()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.form[0]} {list(self.form[1])} sum {float(self.values.double().sum()):.9g}"


def _tensor(tensor: Tensor | None) -> object:
    return None if tensor is None else (id(tensor), _Exact(tensor))


def _plain(value: Any, depth: int = 0) -> object:
    """A value in a form that can be compared later: containers by their content, objects by what they are."""
    if isinstance(value, Tensor):
        return _Exact(value)
    if depth > _DEEPEST or isinstance(value, (nn.Module, type)):
        return id(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device)):
        return repr(value)  # so that NaN equals itself
    if hasattr(value, "to_dict") and hasattr(value, "model_type"):
        return _plain(vars(value), depth + 1)
    return id(value)
