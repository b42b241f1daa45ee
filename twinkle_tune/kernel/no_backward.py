"""A kernel that has no backward, bound for inference: once the model is put into training, the original runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from twinkle_tune.kernel.owner import running, traced

Call = Callable[..., Any]


def not_in_training(call: Call, original: Call, name: str) -> Call:
    """The kernel of a layer, which takes the module first, as long as that module is not in training.

    In training with gradients on the original runs, which is said once.

    Args:
        name: how the warning names the kernel.
    """
    tell = _Telling(name)

    def forward(module: Any, /, *args: Any, **kwargs: Any) -> Any:
        if module.training and torch.is_grad_enabled():
            tell()
            return original(module, *args, **kwargs)
        return call(module, *args, **kwargs)

    return forward


def function_not_in_training(call: Call, original: Call, name: str) -> Call:
    """As :func:`not_in_training`, of a function: the model whose forward runs is what may be in training."""
    tell = _Telling(name)

    def function(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and _model_trains():
            tell()
            return original(*args, **kwargs)
        return call(*args, **kwargs)

    return function


def _model_trains() -> bool:
    owner = traced.owner if torch.compiler.is_compiling() else running.get()
    model: nn.Module | None = None if owner is None else owner.model()
    return model is not None and model.training


class _Telling:
    """Says it once, and not while torch.compile is tracing."""

    def __init__(self, name: str) -> None:
        self.name, self.told = name, False

    def __call__(self) -> None:
        if torch.compiler.is_compiling() or self.told:
            return
        self.told = True
        warnings.warn(
            f"{self.name} has no backward and was bound for inference; the model is in training now, where the "
            "original runs: kernelize for training, or pass needs_backward=False to run it all the same",
            stacklevel=4,
        )
