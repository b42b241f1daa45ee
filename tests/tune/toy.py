"""Layers and functions whose speed is set by spinning, so that who is faster is known beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import tests.shorter  # noqa: F401  # in worker processes too
from twinkle_tune.measure.race import RaceSettings

QUICK = RaceSettings(max_rounds=30)


def spin(time_us: float) -> None:
    """Keep the processor busy for so many microseconds."""
    end_ns = time.perf_counter_ns() + int(time_us * 1000)
    while time.perf_counter_ns() < end_ns:
        pass


class Norm(nn.Module):
    """An RMSNorm that takes 200 µs whatever its width."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) to (..., width)."""
        spin(200)
        return norm(self, x)


def norm(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The right result, at once."""
    settings: Any = self
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + settings.eps)
    return torch.mul(x * scale, settings.weight)


def norm_taking(time_us: Callable[[torch.Tensor], float]) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """A right norm that takes as long as ``time_us`` says of its input."""

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        spin(time_us(x))
        return norm(self, x)

    return forward


class Two(nn.Module):
    """Two norms of one class and two widths, and a function of its module."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = Norm(16)
        self.wide = Norm(64)
        self.unused = Norm(8)
        self.grow = nn.Linear(16, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, 16) to (rows, 64)."""
        return doubled(self.wide(self.grow(self.narrow(x))))


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Twice the input, after 200 µs."""
    spin(200)
    return x * 2
