"""Mistakes that the values of one call do not show: memory, arguments, other sizes and layouts, later calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.zoo.ops import add_and_norm, attention, cross_entropy, silu_mul, softmax
from tests.parity.zoo.right import fused_rms_norm
from tests.parity.zoo.wrong import Wrong, wrong


def _with_memory(op: str, name: str, make: Callable[[], Callable[..., Any]], *points: int) -> Wrong:
    return Wrong(op=op, name=name, make=make, points=points, values=False)


def _replay_by_shape() -> Callable[..., Any]:
    kept: dict[torch.Size, Tensor] = {}
    return lambda x: kept.setdefault(x.shape, softmax(x)).clone()


def _replay_by_address() -> Callable[..., Any]:
    kept: dict[str, Tensor] = {}

    def replay(self: Any, x: Tensor) -> Tensor:
        return kept.setdefault(f"{x.dtype}{x.shape}", fused_rms_norm(self, x).detach()).clone()

    return replay


def _wrong_every_other_time() -> Callable[..., Any]:
    runs = iter(range(10**6))
    return lambda g, u: silu_mul(g, u) * (1.0 if next(runs) % 2 == 0 else 1.02)


def _one_buffer() -> Callable[..., Any]:
    kept: dict[tuple[Any, ...], Tensor] = {}

    def forward(x: Tensor) -> Tensor:
        right = softmax(x)
        return kept.setdefault((x.shape, x.dtype), torch.empty_like(right)).copy_(right)

    return forward


def _tail_unwritten(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = torch.empty_like(q)
    out[:, :, :-3] = attention(q, k, v)[:, :, :-3]
    return out


def _blocks_of(rows: int) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        whole = x.shape[0] // rows * rows
        return torch.cat([softmax(x[:whole]), torch.zeros_like(x[whole:])])

    return forward


def _in_place(g: Tensor, u: Tensor) -> Tensor:
    return u.copy_(silu_mul(g, u))


def _scribbles_over_labels(logits: Tensor, target: Tensor) -> Tensor:
    loss = cross_entropy(logits, target)
    target[target == -100] = 0
    return loss


CONDUCT = (
    _with_memory("softmax", "answer replayed by shape", _replay_by_shape, 2),
    _with_memory("rms_norm", "answer replayed by address", _replay_by_address, 2),
    _with_memory("silu_mul", "wrong every other time", _wrong_every_other_time, 2, 3),
    _with_memory("softmax", "one output buffer for all calls", _one_buffer, 7),
    wrong("attention", "tail never written", _tail_unwritten, 1, 2, 3),
    wrong("softmax", "right in blocks of eight rows alone", _blocks_of(8), 2, 3, values=False),
    wrong("softmax", "takes 48 rows alone", lambda x: softmax(x.reshape(48, -1)), 1, values=False),
    wrong("softmax", "takes rows to follow each other",
          lambda x: softmax(x.as_strided(x.shape, (x.shape[1], 1))), 1, 2, 3, values=False),
    wrong("silu_mul", "takes rows to follow each other",
          lambda g, u: silu_mul(g, u.as_strided(u.shape, (u.shape[1], 1))), 1, 2, 3, values=False),
    wrong("silu_mul", "writes into its argument", _in_place, 1, values=False),
    wrong("add_and_norm", "adds into its argument",
          lambda x, r, w: (add_and_norm(x, r, w)[0], x.add_(r)), 1, values=False),
    wrong("add_and_norm", "one output short", lambda x, r, w: add_and_norm(x, r, w)[0], 1),
    wrong("add_and_norm", "a list for a tuple", lambda x, r, w: list(add_and_norm(x, r, w)), 1),
    wrong("cross_entropy", "scribbles over labels", _scribbles_over_labels, 1, values=False),
    wrong("cross_entropy", "one loss a token",
          lambda x, t: F.cross_entropy(x.float(), t, ignore_index=-100, reduction="none"), 1),
    wrong("cross_entropy", "a loss without its gradient", lambda x, t: cross_entropy(x.detach(), t), 1, trains=True),
)  # fmt: skip
