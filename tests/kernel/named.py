"""Layers and a function that their author named for the kernels package, and repository objects for them."""

from __future__ import annotations

from typing import Any

import torch
from kernels import use_kernel_forward_from_hub, use_kernelized_func
from torch import nn


@use_kernel_forward_from_hub("Scale")
class Scale(nn.Module):
    """A layer that its author named for kernels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x as it is."""
        return x


@use_kernel_forward_from_hub("shift")  # type: ignore[untyped-decorator]
def shift(x: torch.Tensor) -> torch.Tensor:
    """x as it is."""
    return x


@use_kernelized_func(shift)
class Shifted(nn.Module):
    """A layer that calls a function that is named for kernels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x as it is."""
        shifted: torch.Tensor = shift(x)
        return shifted


class Adds:
    """A repository object whose layer adds a number."""

    def __init__(self, number: float, **members: Any) -> None:
        def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return x + number

        self.cls = type(f"Adds{number:g}", (nn.Module,), {"forward": forward, **members})

    def load(self) -> type[nn.Module]:
        """The layer."""
        return self.cls


def shown(model: nn.Module) -> float:
    """What a model adds to a zero."""
    with torch.no_grad():
        return float(model(torch.zeros(1)))
