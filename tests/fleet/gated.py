"""An MLP whose contest is packed, in a module that can be imported where it is read."""

from __future__ import annotations

import torch
from torch import nn


class Gated(nn.Module):
    """An MLP as language models have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, 3 * width, bias=False)
        self.up_proj = nn.Linear(width, 3 * width, bias=False)
        self.down_proj = nn.Linear(3 * width, width, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) to (..., width)."""
        found: torch.Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return found


def small() -> tuple[nn.Module, torch.Tensor]:
    """A model with such an MLP and a norm, and its input: a factory for the command line."""
    torch.manual_seed(0)
    return nn.Sequential(nn.RMSNorm(32), Gated(32)), torch.randn(4, 32)


def deeper() -> tuple[nn.Module, torch.Tensor]:
    """Another model of the same layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.RMSNorm(32), Gated(32), nn.Identity(), nn.RMSNorm(32), Gated(32)), torch.randn(4, 32)
