"""A model of blocks, and a compiler that a test makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from twinkle_tune.strategy import STRATEGIES
from twinkle_tune.strategy.compile_mode import CompileMode
from twinkle_tune.strategy.device_graphs import DeviceGraphs

COMPILING = tuple(strategy for strategy in STRATEGIES if not isinstance(strategy, (CompileMode, DeviceGraphs)))
"""The ways that compile anywhere. Those for a CUDA device alone have tests of their own."""


class Layer(nn.Module):
    """A block whose number stands in the guards of its code."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.inner = number, nn.Sequential(nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 8) to the same."""
        return torch.tanh(self.inner(x)) * (1 + self.number / 10)


class Layers(nn.Module):
    """Nine blocks, one more than torch.compile has versions of one function, or as many as are wanted."""

    def __init__(self, count: int = 9) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(number) for number in range(count))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """(rows, 8) to the same."""
        for layer in self.layers:
            x = layer(x)
        return x * scale


def compiled_by(
    monkeypatch: pytest.MonkeyPatch, made: Callable[[Any], Callable[..., Any]] = lambda graph: graph.forward
) -> list[Any]:
    """Let graphs be compiled to what is made of them; gives the graphs as they come."""
    graphs: list[Any] = []

    def compile_fx(graph: Any, inputs: Any, **options: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return made(graph)

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    return graphs
