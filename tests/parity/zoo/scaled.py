"""Kernels of losses that are right while about one is sent back into the loss, and wrong for a loss that is scaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.parity.zoo.ops import OPS, VOCABULARY, Op, T, cross_entropy, labels, normal
from tests.parity.zoo.wrong import ALL


class _Early(torch.autograd.Function):
    """The gradient is made and rounded on the way forward, and multiplied on the way back."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, at_most: float) -> Tensor:
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            loss = cross_entropy(leaf, target)
        ctx.save_for_backward(torch.autograd.grad(loss, leaf)[0])
        ctx.at_most = at_most
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (held,) = ctx.saved_tensors
        return (held.float() * gradients[0].clamp(max=ctx.at_most)).to(held.dtype), None, None


def early(at_most: float) -> Any:
    """A cross entropy with an early gradient, and what is sent into it cut off at ``at_most``."""
    return lambda logits, target: _Early.apply(logits, target, at_most)  # type: ignore[no-untyped-call]


def wide_logits(dtype: torch.dtype) -> Tensor:
    """As many classes as make most of the loss's gradients smaller than float16's least normal number."""
    return normal(T, 4000, dtype=dtype, grad=True)


def wide_labels() -> Tensor:
    return torch.arange(T) * 80


def with_logits(x: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the logits, as a model gives them."""
    logits = x @ weight.T
    return cross_entropy(logits, target), logits


def off_beside_logits(x: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The same with a gradient of the loss that is 3% too large."""
    logits = x @ weight.T
    loss = cross_entropy(logits, target)
    return loss.detach() + 1.03 * (loss - loss.detach()), logits


def head_inputs(dtype: torch.dtype, grad: bool) -> tuple[None, tuple[Any, ...]]:
    x, weight = (normal(rows, 16, dtype=dtype, grad=grad) for rows in (T, VOCABULARY))
    return None, (x, weight, labels())


LOSSES = {
    "loss": OPS["cross_entropy"],
    "wide_loss": Op(original=cross_entropy, make=lambda dtype, grad: (None, (wide_logits(dtype), wide_labels()))),
    "loss_and_logits": Op(original=with_logits, make=head_inputs),
}
SCALED: dict[str, tuple[str, Callable[..., Any], tuple[torch.dtype, ...]]] = {
    # In float32, which has the exponents for it, an early gradient loses nothing.
    "rounded early": ("wide_loss", early(1e30), (torch.float16,)),
    "cut off at 1000": ("loss", early(1000.0), ALL),
    "3% too large beside the logits": ("loss_and_logits", off_beside_logits, ALL),
}
"""By what is wrong: the op, the kernel, and the dtypes in which it is a mistake."""
