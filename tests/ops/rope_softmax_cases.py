"""``python -m tests.ops.rope_softmax_cases``: what is particular to rope and softmax, in Triton's interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.ops.interpreter import Case, main
from twinkle_tune.ops.rope import op as rope_op
from twinkle_tune.ops.rope.op import rope
from twinkle_tune.ops.softmax import op as softmax_op
from twinkle_tune.ops.softmax.op import softmax

FAR = 2**30
"""Elements between two rows: the third begins past 2**31. Memory that is never written takes no room."""


def cases() -> Iterator[Case]:
    """The claims."""
    for shared in (True, False):
        for heads_first in (True, False):
            for interleaved in (True, False):
                yield (
                    f"rope of two sequences, {shared=} {heads_first=} {interleaved=}",
                    partial(rope_holds, shared, heads_first, interleaved),
                )
    yield "rope with cos and sin in float32", rope_takes_wider_angles
    yield "rope past 2**31 elements", rope_reaches_far
    for shape in ((2, 1, 1, 40), (1, 1, 5, 40), (5, 1), (2, 3, 5, 40)):
        for boolean in (True, False):
            for block in (0, 1024):
                yield (
                    f"softmax with a mask {shape} {boolean=} {block=}",
                    partial(mask_holds, shape, boolean, block),
                )
    yield "softmax of five dimensions", softmax_of_five_dimensions
    yield "softmax of rows without anything kept", nothing_kept_is_nan


def heads(batch: int, count: int, heads_first: bool) -> Tensor:
    """(batch, count, 5 tokens, width 12), with heads or tokens first in memory."""
    if heads_first:
        return torch.randn(batch, count, 5, 12, requires_grad=True)
    return torch.randn(batch, 5, count, 12).transpose(1, 2).requires_grad_()


def agrees(ours: Callable[..., Any], formula: Callable[..., Any], *inputs: Tensor) -> None:
    """Results and gradients are those of the formula in float64, to the last digits of float32."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    got, expected = (
        [*result] if isinstance(result, tuple) else [result] for result in (ours(*inputs), formula(*exact))
    )
    incoming = [torch.randn_like(x) for x in got]
    got += torch.autograd.grad(got, inputs, incoming)
    expected += torch.autograd.grad(expected, exact, [x.double() for x in incoming])
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-6, atol=2e-6)


def rope_holds(shared: bool, heads_first: bool, interleaved: bool) -> None:
    """Both sequences, with their own or common angles; a pair's two angles differ here; part of a head is copied."""
    q, k = heads(2, 3, heads_first), heads(2, 1, not heads_first)
    cos, sin = torch.randn(2, 1 if shared else 2, 5, 10)
    agrees(
        lambda q, k: rope(q, k, cos, sin, interleaved=interleaved),
        lambda q, k: rope_op.reference(q, k, cos.double(), sin.double(), interleaved=interleaved),
        *(q, k),
    )


def rope_takes_wider_angles() -> None:
    """The result has q's dtype, and cos and sin are used as they are."""
    q, k = (heads(1, count, True).detach().bfloat16() for count in (2, 1))
    cos, sin = torch.randn(2, 1, 5, 12)
    got, expected = rope(q, k, cos, sin), rope_op.reference(q.double(), k.double(), cos.double(), sin.double())
    for ours, exact in zip(got, expected, strict=True):
        assert torch.equal(ours, exact.float().bfloat16())


def rope_reaches_far() -> None:
    """Tokens 2**30 elements apart are read where they are."""
    q = torch.empty(3 * FAR, dtype=torch.float16).as_strided((1, 2, 3, 8), (0, 8, FAR, 1))
    q.copy_(torch.randn(1, 2, 3, 8))
    cos, sin = torch.randn(2, 1, 3, 8).half()
    got, expected = rope(q, q[:, :1], cos, sin), rope(q.contiguous(), q[:, :1].contiguous(), cos, sin)
    for ours, near in zip(got, expected, strict=True):
        assert torch.equal(ours, near)


def mask_holds(shape: tuple[int, ...], boolean: bool, block: int) -> None:
    """Masks of every kind of broadcast, on heads that lie tokens first; columns at a time or all at once."""
    x = torch.randn(2, 5, 3, 40 if not block else 1100).transpose(1, 2)
    shape = tuple(x.shape[-1] if size == 40 else size for size in shape)
    mask = torch.rand(shape) > 0.3 if boolean else torch.randn(shape)
    if boolean:
        # Nothing is kept in the first block of columns of some rows; something is in every row.
        mask[..., : shape[-1] // 2] &= torch.rand(shape[:-1]).unsqueeze(-1) > 0.5
        mask[..., -1] = True
    config = {"rows": 2, "block": block, "warps": 4, "back_rows": 2, "back_block": block, "back_warps": 4}
    agrees(
        lambda x: softmax(x, mask, scale=0.3, config=config),
        lambda x: softmax_op.reference(x, mask, scale=0.3),
        x.requires_grad_(),
    )


def softmax_of_five_dimensions() -> None:
    """More leading dimensions than the kernel has."""
    x, mask = torch.randn(2, 2, 2, 3, 9).transpose(0, 2), torch.randn(2, 1, 9)
    torch.testing.assert_close(softmax(x, mask), softmax_op.reference(x, mask))


def nothing_kept_is_nan() -> None:
    """As in torch; the rows beside it are right."""
    x, mask = torch.randn(4, 1500), torch.ones(4, 1500, dtype=torch.bool)
    mask[2] = False
    for block in (0, 1024):
        config = {"rows": 4, "block": block, "warps": 8, "back_rows": 1, "back_block": 0, "back_warps": 4}
        got = softmax(x, mask, config=config)
        assert torch.equal(got.isnan().all(-1), torch.tensor([False, False, True, False]))
        torch.testing.assert_close(got, softmax_op.reference(x, mask), equal_nan=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main(cases()))
