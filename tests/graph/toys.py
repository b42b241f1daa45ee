"""A small stack of blocks with residual norms, a pattern that is in each, and a right replacement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Feed(nn.Module):
    """Linear, activation, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """(..., 8) to (..., 8)."""
        out: Tensor = self.down(self.act(self.up(x)))
        return out


class Block(nn.Module):
    """Pre-norm, with an argument that may be None and one that goes on by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.second, self.feed = nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8), Feed()

    def forward(self, x: Tensor, bias: Tensor | None = None, **kwargs: Any) -> Any:
        """(..., 8) to (..., 8)."""
        mixed = self.mix(self.first(x))
        if bias is not None:
            mixed = mixed + bias
        x = x + mixed
        return x + self.feed(self.second(x), **kwargs)


class Stack(nn.Module):
    """Two blocks."""

    layers: Any

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., 8) to (..., 8)."""
        for layer in self.layers:
            x = layer(x, bias=bias)
        return x


class Added(nn.Module):
    """The pattern: a sum, and its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The sum and its norm."""
        total = x + y
        return total, self.norm(total)


class Fused(nn.Module):
    """A replacement of :class:`Added` that notes that it ran."""

    ran = 0

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The sum and its norm."""
        Fused.ran += 1
        total = torch.add(x, y)
        norm = self.norm
        return total, torch.layer_norm(total, total.shape[-1:], norm.weight, norm.bias, norm.eps)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A pattern without modules."""
    return nn.functional.gelu(nn.functional.linear(x, weight, bias))


class LinearGelu(nn.Module):
    """The pattern of two children, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(1, 1), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(..., a) to (..., b)."""
        out: Tensor = self.act(self.linear(x))
        return out


class FusedLinearGelu(nn.Module):
    """Its replacement, which reads the weights of the pattern's Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., a) to (..., b)."""
        return torch.nn.functional.gelu(torch.nn.functional.linear(x, self.linear.weight, self.linear.bias))
