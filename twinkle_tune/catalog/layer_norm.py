"""LayerNorm: (x - mean) / sqrt(variance + eps), times a weight, plus a bias, each of which may be missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinkle_tune.catalog import liger, op_calls, triton
from twinkle_tune.catalog.norm import NormFlavour, given_dtype, norm_flavour, sample
from twinkle_tune.catalog.probe import adds_nothing
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource


def flavour_of(module: nn.Module) -> NormFlavour | None:
    """How the module is a LayerNorm; None if it is not."""
    flavour = norm_flavour(module, _formula)
    # torch's has no default for eps.
    return flavour if flavour is not None and getattr(module, flavour.eps) is not None else None


def contestants(flavour: NormFlavour, module: nn.Module, device: str) -> list[Candidate]:
    """Candidates for this flavour of LayerNorm."""
    found = []
    settings = (flavour.weight, flavour.bias, flavour.eps, flavour.offset, flavour.casts_last, flavour.to_weight)
    fused = fused_layer_norm(*settings)
    if not adds_nothing(module, fused, sample(flavour.wide)):
        found.append(Candidate(name="torch.layer_norm", source=ImplSource(kind="torch", impl=fused)))
    if liger.offered(device) and flavour.weight and flavour.bias and not flavour.offset:
        found.append(liger.candidate(liger.layer_norm(flavour.weight, flavour.bias, flavour.eps)))
    if triton.offered(device):
        make = triton.layer_norm(*settings)
        call_of = op_calls.of_layer_norm(flavour.weight, flavour.bias)
        found.append(triton.candidate(make, "layer_norm", call_of=call_of))
    return found


def fused_layer_norm(
    weight: str | None, bias: str | None, eps: str, offset: float, casts_last: bool, to_weight: bool = False
) -> Callable[..., Any]:
    """A forward made of ``torch.nn.functional.layer_norm``."""

    def forward(self: Any, x: Tensor) -> Tensor:
        scale = getattr(self, weight) if weight else None
        shift = getattr(self, bias) if bias else None
        if not offset and (scale is None or scale.dtype == x.dtype):
            return F.layer_norm(x, x.shape[-1:], scale, shift, getattr(self, eps))
        assert scale is not None  # an offset without a weight is never made
        dtype = torch.promote_types(x.dtype, scale.dtype)
        exact = torch.promote_types(dtype, torch.float32)
        shift = None if shift is None else shift.to(exact)
        normed = F.layer_norm(x.to(exact), x.shape[-1:], scale.to(exact) + offset, shift, getattr(self, eps))
        return normed.to(given_dtype(x.dtype, scale.dtype, casts_last, to_weight))

    return forward


def _formula(module: nn.Module, x: Tensor, flavour: NormFlavour) -> Tensor:
    weight = getattr(module, flavour.weight) + flavour.offset if flavour.weight else None
    bias = getattr(module, flavour.bias) if flavour.bias else None
    return F.layer_norm(x, (flavour.wide,), weight, bias, getattr(module, flavour.eps))
