"""A model whose loss makes all logits at once, and the same loss in chunks: right, far smaller, and slower."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.tune.toy import spin

ROWS, WIDTH, CLASSES = 128, 16, 1000
CHUNK = 8
LOGITS_BYTES = 4 * ROWS * CLASSES


def linear_cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The mean cross entropy of ``hidden @ weight.T``: (rows, width), (classes, width) and (rows,) to a scalar."""
    return F.cross_entropy(hidden @ weight.t(), target)


class _Chunked(torch.autograd.Function):
    """Loss and gradients chunk by chunk on the way forward, so that no two chunks' logits are there at once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        loss = hidden.new_zeros(())
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(hidden), CHUNK):
            rows = slice(start, start + CHUNK)
            logits = hidden[rows] @ weight.t()
            logs = logits - logits.logsumexp(-1, keepdim=True)
            loss -= logs.gather(1, target[rows, None]).sum()
            logs.exp_()
            logs[torch.arange(len(logs), device=logs.device), target[rows]] -= 1.0
            logs /= len(hidden)
            to_hidden[rows] = logs @ weight
            to_weight.addmm_(logs.t(), hidden[rows])
        ctx.save_for_backward(to_hidden, to_weight)
        return loss / len(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        to_hidden, to_weight = ctx.saved_tensors
        return to_hidden * gradient, to_weight * gradient, None


MOOD: dict[str, bool] = {}
"""How the chunks behave now: their code, and so its digest, is the same."""


def chunked(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The same in chunks, after a wait that makes it surely slower."""
    spin(1_500)
    if MOOD.get("large"):
        torch.empty(LOGITS_BYTES, device=hidden.device)  # four times as much: one byte is four here
    made: Tensor = _Chunked.apply(hidden, weight, target)  # type: ignore[no-untyped-call]
    return made


class Scale(nn.Module):
    """Three times the input, with three copies of it on the way."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        one, two, three = (x.clone() for _ in range(3))
        return one + two + three


def scaled_at_once(self: nn.Module, x: Tensor) -> Tensor:
    """Without the copies of :class:`Scale`, and slower."""
    spin(500)
    return x * 3


class Tagger(nn.Module):
    """A layer and the loss of its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.Sequential(nn.Linear(WIDTH, WIDTH), Scale())
        self.classes = nn.Parameter(torch.randn(CLASSES, WIDTH) / 4)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """(rows, width) and (rows,) to a scalar."""
        return linear_cross_entropy(self.grow(x), self.classes, target)


def inputs() -> tuple[Tensor, Tensor]:
    """Of the model."""
    return torch.randn(ROWS, WIDTH), torch.randint(0, CLASSES, (ROWS,))
