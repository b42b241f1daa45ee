"""Gradients that are made on the way forward and held until the incoming gradient is known.

In float16 a loss is scaled, by up to 65536 and beyond, so that small gradients are not lost: the original rounds them
after that. Who rounds before has to scale by itself, for any incoming gradient that may come.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PARTS = 16
"""A held gradient is multiplied in so many parts, as a copy in a wider dtype is made of each."""
_LARGEST = 2.0**12
"""Of float16's 2**16 this leaves room for a product with the weight, label smoothing and a z-loss."""


def gain_for(weight: Tensor) -> Tensor | None:
    """What each row's slope is multiplied with before it is rounded; None where the dtype needs none.

    A slope of float16 (at most 1 in size) is a subnormal number from 6e-5 down: half of what many classes get. The gain
    is a power of two, so it changes no digit; with it the slope has all of its digits down to 1e-8, and its product
    with the weight, at most twice the weight's largest element, stays finite.

    Args:
        weight: (classes, width).

    Returns:
        A scalar on the weight's device, float32.
    """
    if weight.dtype is not torch.float16:
        return None
    # Of a weight that is not finite the gain does not matter: the gradients are not finite either.
    largest = torch.stack(weight.detach().aminmax()).abs().amax() if weight.numel() else weight.new_ones(())
    return _LARGEST * torch.exp2(-torch.ceil(torch.log2(largest.float().clamp(min=1.0, max=2.0**16))))


def add_product(total: Tensor, slope: Tensor, x: Tensor) -> None:
    """Add ``slope.T @ x`` to a float32 total, unrounded."""
    if slope.is_cuda and slope.dtype != total.dtype:
        torch.addmm(total, slope.T, x, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(slope.T.to(total.dtype), x.to(total.dtype))  # a CPU has no product of one dtype into another


def sent_back(held: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """``held * factor`` in ``dtype``, multiplied at least in float32: float16 has no 65536."""
    made = torch.empty_like(held, dtype=dtype)
    wide = torch.promote_types(held.dtype, torch.float32)
    for result, part in zip(made.chunk(_PARTS), held.chunk(_PARTS), strict=True):
        torch.mul(part.to(wide), factor.to(wide), out=result)
    return made


def under_autocast(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both as torch's linear layer would take them: in autocast's dtype where that is on, float64 left alone."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or torch.float64 in (x.dtype, weight.dtype):
        return x, weight
    dtype = torch.get_autocast_dtype(device)
    return x.to(dtype), weight.to(dtype)
