"""RMSNorm, alone or with the residual sum before it, as one node of autograd whose backward is written out.

torch has no RMSNorm of its own on a CPU: what autograd records of its parts keeps a tensor for each of them. Here the
input and one number a row are kept. For rows x of width D, s = 1 / sqrt(mean(x^2) + eps), h = x s and y = h w:

    dw = sum over rows of dy h,    dx = s (dy w - h mean(dy w h))

Temporaries are written over where nobody looks any more, and all of it is computed in float32 at least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.catalog.norm import NormFlavour, given_dtype


@dataclass(frozen=True, slots=True)
class How:
    """How a norm applies what it has: as of :class:`~twinkle_tune.catalog.norm.NormFlavour`, and the value of eps."""

    eps: float
    offset: float
    casts_last: bool
    to_weight: bool

    @classmethod
    def of(cls, flavour: NormFlavour, eps: float | None, dtype: torch.dtype) -> How:
        """Of a flavour."""
        value = torch.finfo(dtype).eps if eps is None else eps
        return cls(value, flavour.offset, flavour.casts_last, flavour.to_weight)


def rms_normed(x: Tensor, weight: Tensor | None, how: How) -> Tensor:
    """The norm of x (..., D) by a weight (D) or none."""
    if not torch.is_grad_enabled():
        return _forward(x, weight, how)[0]
    found: Tensor = _Normed.apply(x, weight, how)  # type: ignore[no-untyped-call]
    return found


def added_and_normed(x: Tensor, residual: Tensor, weight: Tensor | None, how: How) -> tuple[Tensor, Tensor]:
    """The sum of x and residual, of one shape and dtype, and its norm."""
    if not torch.is_grad_enabled():
        total = x + residual
        return total, _forward(total, weight, how)[0]
    found: tuple[Tensor, Tensor] = _Added.apply(x, residual, weight, how)  # type: ignore[no-untyped-call]
    return found


def _forward(x: Tensor, weight: Tensor | None, how: How) -> tuple[Tensor, Tensor]:
    exact = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
    scale = length.square_().div_(x.shape[-1]).add_(how.eps).rsqrt_()
    normed = x * scale
    if weight is None:
        return normed.to(x.dtype), scale
    dtype = given_dtype(x.dtype, weight.dtype, how.casts_last, how.to_weight)
    return normed.mul_(_gain(weight, exact, how)).to(dtype), scale


def _gain(weight: Tensor, exact: torch.dtype, how: How) -> Tensor:
    return weight.to(exact) + how.offset if how.offset else weight.to(exact)


def _backward(
    gradient: Tensor, x: Tensor, scale: Tensor, weight: Tensor | None, how: How
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x, in float32 at least, and of the weight."""
    exact, wide = scale.dtype, x.shape[-1]
    given, normed = gradient.to(exact), x * scale
    product = given * normed
    if weight is None:
        before, share = given, product.sum(-1, keepdim=True)
        d_weight = None
    else:
        gain = _gain(weight, exact, how)
        before, share = given * gain, (product @ gain).unsqueeze(-1)
        d_weight = product.reshape(-1, wide).sum(0).to(weight.dtype)
    return torch.addcmul(before, normed, share.div_(-wide)).mul_(scale), d_weight


def _formula(x: Tensor, weight: Tensor | None, how: How) -> Tensor:
    """Differentiable as often as one likes."""
    exact = torch.promote_types(x.dtype, torch.float32)
    wide = x.to(exact)
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + how.eps)
    if weight is None:
        return normed.to(x.dtype)
    dtype = given_dtype(x.dtype, weight.dtype, how.casts_last, how.to_weight)
    return (normed * _gain(weight, exact, how)).to(dtype)


def _again(gradient: Tensor, x: Tensor, weight: Tensor | None, how: How) -> tuple[Tensor, Tensor | None]:
    """The gradients by autograd, for a backward that is differentiated itself (``create_graph``)."""
    wanted = [tensor for tensor in (x, weight) if tensor is not None and tensor.requires_grad]
    found = iter(torch.autograd.grad(_formula(x, weight, how), wanted, gradient, create_graph=True))
    d_x = next(found) if x.requires_grad else torch.zeros_like(x)
    return d_x, next(found) if weight is not None and weight.requires_grad else None


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, how: How) -> Tensor:
        normed, scale = _forward(x, weight, how)
        ctx.save_for_backward(x, scale, weight)
        ctx.how = how
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, scale, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            d_x, d_weight = _again(gradients[0], x, weight, ctx.how)
        else:
            d_x, d_weight = _backward(gradients[0], x, scale, weight, ctx.how)
        return d_x.to(x.dtype), d_weight, None


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, weight: Tensor | None, how: How) -> tuple[Tensor, Tensor]:
        total = x + residual
        normed, scale = _forward(total, weight, how)
        ctx.save_for_backward(total, scale, weight)
        ctx.how = how
        ctx.set_materialize_grads(False)
        return total, normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        total, scale, weight = ctx.saved_tensors
        d_total, d_normed = gradients
        d_weight = None
        if d_normed is not None:
            if torch.is_grad_enabled():
                made, d_weight = _again(d_normed, total, weight, ctx.how)
                d_total = made if d_total is None else made + d_total
            else:
                made, d_weight = _backward(d_normed, total, scale, weight, ctx.how)
                d_total = made if d_total is None else made.add_(d_total)
        given = None if d_total is None else d_total.to(total.dtype)
        return given, given, d_weight, None
