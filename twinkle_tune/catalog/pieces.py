"""A linear layer and the cross entropy of its logits by torch's own operations, some rows at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from twinkle_tune.ops.fused_linear_cross_entropy.held import add_product, gain_for, sent_back, under_autocast
from twinkle_tune.ops.once import differentiable_once

_FEWEST_ROWS = 64


def in_pieces(x: Tensor, weight: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor:
    """The loss of ``x @ weight.T``; the gradients are made on the way forward, and cannot be differentiated again.

    A piece has so many rows that its logits are about as large as x. For each row i with the target t, the loss is
    logsumexp(z_i) - z_it for z = x W^T, its gradient by z is softmax(z_i) - onehot(t), and from that those by x and W.

    Args:
        x: (rows, width); under autocast taken in its dtype, as a linear layer would.
        weight: (classes, width), likewise.
        target: (rows), class indices.
        ignore_index: the target of rows that do not count.
        reduction: "mean" or "sum".

    Returns:
        A scalar, at least float32.
    """
    x, weight = under_autocast(x, weight)
    with torch.autocast(x.device.type, enabled=False):
        loss: Tensor = _InPieces.apply(x, weight, target, ignore_index, reduction)  # type: ignore[no-untyped-call]
    return loss


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor:
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        exact = torch.promote_types(x.dtype, torch.float32)
        total = x.new_zeros((), dtype=exact)
        dx = torch.empty_like(x) if needs_x else None
        dweight = torch.zeros_like(weight, dtype=exact) if needs_weight else None
        kept = target != ignore_index
        gain = gain_for(weight) if needs_x or needs_weight else None
        rows = max(_FEWEST_ROWS, x.shape[0] * x.shape[1] // weight.shape[0])
        for first in range(0, x.shape[0], rows):
            piece = slice(first, first + rows)
            at, counts = target[piece].where(kept[piece], 0).unsqueeze(1), kept[piece].unsqueeze(1)
            logits = (x[piece] @ weight.T).to(exact)
            highest = torch.logsumexp(logits, 1, keepdim=True)
            total += (highest - logits.gather(1, at)).where(counts, 0.0).sum()
            if dx is None and dweight is None:
                continue
            slope = logits.sub_(highest).exp_().scatter_add_(1, at, logits.new_full(at.shape, -1.0))
            slope = slope.mul_(counts if gain is None else counts * gain).to(x.dtype)
            if dx is not None:
                torch.mm(slope, weight, out=dx[piece])
            if dweight is not None:
                add_product(dweight, slope, x[piece])
        count = kept.sum()
        factor = count.clamp(min=1).to(exact).reciprocal() if reduction == "mean" else total.new_ones(())
        ctx.save_for_backward(dx, dweight, factor if gain is None else factor / gain)
        ctx.dtype = x.dtype
        # Where no row counts the mean is 0 / 0, as torch's.
        return total if reduction == "sum" else total / count

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        dx, dweight, factor = ctx.saved_tensors
        made = (None if held is None else sent_back(held, gradients[0] * factor, ctx.dtype) for held in (dx, dweight))
        return *made, None, None, None
