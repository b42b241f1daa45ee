"""``python -m tests.ops.attention_cases``: 60 combinations against float64, in Triton's interpreter; ``--today`` a few.

Who sees whom, how many heads, how wide, how long, how large a block: drawn so that each is met with many of the others.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.ops.interpreter import Case, main
from tests.today import of_today
from twinkle_tune.ops.attention.op import OPS, attention, reference

COUNT = 60
_SIGHTS: tuple[dict[str, Any], ...] = (
    {},
    {"causal": True},
    {"causal": True, "window": 5},
    {"window": 9},
    {"causal": True, "softcap": 3.0},
    {"softcap": 2.0, "scale": 0.3},
)
_LENGTHS = ((17, 17), (1, 33), (40, 40), (20, 53), (33, 9))
_HEADS = ((2, 2), (4, 2), (3, 1))
_WIDTHS = (32, 64, 80, 128, 256)
_BLOCKS = ((16, 16), (32, 16), (16, 32), (64, 64))


def cases() -> Iterator[Case]:
    """The combinations: all ten ways to see and be padded, six times each, with the rest in turns."""
    source = random.Random(3)
    order = [(sight, padded) for sight in _SIGHTS for padded in (False, True)] * (COUNT // (2 * len(_SIGHTS)))
    for number, (sight, padded) in enumerate(order):
        lengths, heads = _LENGTHS[number % len(_LENGTHS)], source.choice(_HEADS)
        width, blocks = _WIDTHS[number // 2 % len(_WIDTHS)], source.choice(_BLOCKS)
        what = f"{sight} padded={padded} lengths={lengths} heads={heads} width={width} blocks={blocks}"
        yield what, partial(agrees, sight, padded, lengths, heads, width, blocks)


def agrees(
    sight: dict[str, Any],
    padded: bool,
    lengths: tuple[int, int],
    heads: tuple[int, int],
    width: int,
    blocks: tuple[int, int],
) -> None:
    """The result and its three gradients are those of the formula in float64, to the last digits of float32."""
    source = torch.Generator().manual_seed(width + lengths[1])
    q, k, v = (
        torch.randn(2, length, count, width, generator=source).transpose(1, 2).requires_grad_()  # tokens first
        for count, length in ((heads[0], lengths[0]), (heads[1], lengths[1]), (heads[1], lengths[1]))
    )
    mask = None
    if padded:  # at the left of one sequence, at the right of the other
        place = torch.arange(lengths[1])
        mask = torch.stack((place >= lengths[1] // 3, place < lengths[1] - 2))
    dims = {"batch": 2, "heads": heads[0], "kv_heads": heads[1], "queries": lengths[0], "keys": lengths[1]}
    config = {**OPS[0].default({**dims, "width": width}, 90)}
    # Of float32 half as many rows are taken at a time.
    config |= dict(zip(("block_m", "block_n", "back_m", "back_n"), (2 * size for size in blocks * 2), strict=True))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    ours = attention(q, k, v, mask, **sight, config=config)
    theirs = reference(exact[0], exact[1], exact[2], mask, **sight)
    incoming = torch.randn(ours.shape, generator=source)
    _close(ours, theirs)
    found = torch.autograd.grad(ours, (q, k, v), incoming)
    for one, other in zip(found, torch.autograd.grad(theirs, exact, incoming.double()), strict=True):
        _close(one, other)


def _close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    found = cases()
    sys.exit(main(of_today(found, 15) if "--today" in sys.argv else found))
