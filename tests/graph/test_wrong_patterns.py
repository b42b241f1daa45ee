"""Replacements of larger patterns that are nearly right: gate and up swapped, a window that is off by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.graph.test_pattern_slots import profile_of
from twinkle_tune import register_pattern_kernel
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.slot import ORIGINAL

LENGTH, WINDOW = 9, 4


class Window(nn.Module):
    """Of scores (..., queries, keys) those of the last ``window`` keys, each query's own among them."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, scores: Tensor) -> Tensor:
        """(..., n, n) to (..., n, n)."""
        return scores.masked_fill(~_seen(scores.shape[-1], self.window), float("-inf"))


def _seen(length: int, window: int, *, behind: int = 0) -> Tensor:
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    return (distance >= behind) & (distance < window)


class Block(nn.Module):
    """Attention written out on a window, and a gated MLP, neither a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        # In a layer of its own: a block is a layer of layers, and no sum with its norm is to compete here.
        self.mask, self.norm = Window(WINDOW), nn.Sequential(nn.LayerNorm(8))
        self.gate, self.act, self.up, self.down = nn.Linear(8, 16), nn.SiLU(), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, 8) to (batch, n, 8)."""
        x = x + torch.softmax(self.mask(self.q(x) @ self.k(x).mT), -1) @ self.v(x)
        normed = self.norm(x)
        out: Tensor = x + self.down(self.act(self.gate(normed)) * self.up(normed))
        return out


class Attended(nn.Module):
    """The pattern: a softmax of masked products, and the sum that it weighs."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = Window(1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each (batch, n, width)."""
        return torch.softmax(self.mask(q @ k.mT), -1) @ v


class Gated(nn.Module):
    """The pattern: of two Linears the product, one through an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.act, self.up = nn.Linear(1, 1), nn.SiLU(), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Any:
        """(..., a) to (..., b)."""
        return self.act(self.gate(x)) * self.up(x)


def _attended(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, seen, scale=1.0)


def right_window(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """By torch's own attention."""
    return _attended(q, k, v, _seen(q.shape[-2], self.mask.window))


def one_key_more(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The window reaches a key too far."""
    return _attended(q, k, v, _seen(q.shape[-2], self.mask.window + 1))


def one_key_less(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The window ends a key too early."""
    return _attended(q, k, v, _seen(q.shape[-2], self.mask.window - 1))


def one_key_ahead(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each query sees the key after its own."""
    return _attended(q, k, v, _seen(q.shape[-2], self.mask.window, behind=-1))


def one_product(self: Any, x: Tensor) -> Tensor:
    """Both Linears as one product of matrices."""
    gate, up = _of_one_product(self, x)
    return F.silu(gate) * up


def gate_and_up_swapped(self: Any, x: Tensor) -> Tensor:
    """The activation of the wrong half."""
    gate, up = _of_one_product(self, x)
    return gate * F.silu(up)


def _of_one_product(piece: Any, x: Tensor) -> tuple[Tensor, ...]:
    pair = (piece.gate, piece.up)
    weight, bias = torch.cat([each.weight for each in pair]), torch.cat([each.bias for each in pair])
    return F.linear(x, weight, bias).chunk(2, -1)


CASES = [
    (Attended, right_window, (one_key_more, one_key_less, one_key_ahead)),
    (Gated, one_product, (gate_and_up_swapped,)),
]


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
@pytest.mark.parametrize(("pattern", "right", "wrong"), CASES, ids=["window", "gate"])
def test_nearly_right_replacements_are_refused(pattern: type[nn.Module], right: Any, wrong: Any, mode: Mode) -> None:
    """Each of them by parity, in training as well; the right one, beside them, is timed."""
    registry = Registry()
    for replacement in (right, *wrong):
        register_pattern_kernel(pattern.__name__, pattern, replacement, device="cpu", registry=registry)
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block()).train(mode.trains)
    x = torch.randn(2, LENGTH, 8, requires_grad=mode.trains)
    profile = profile_of(model, {"input": x}, mode, candidates=["impl"], registry=registry)
    (contest,) = profile.contests
    assert contest.slot.name == pattern.__name__
    assert len(contest.instances) == 2
    outcomes = {trial.candidate: trial.outcome for trial in contest.trials}
    refused = {name: each.stage for name, each in outcomes.items() if isinstance(each, Rejection)}
    assert refused == {f"impl:{each.__name__}": "parity" for each in wrong}
    assert {name for name, each in outcomes.items() if isinstance(each, Measurement)} == {
        ORIGINAL,
        f"impl:{right.__name__}",
    }
