"""``python -m tests.ops.rope_cases``: what is particular to rope, in Triton's interpreter."""

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


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main(cases()))
