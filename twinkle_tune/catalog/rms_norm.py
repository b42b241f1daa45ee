"""RMSNorm: x / sqrt(mean(x^2) + eps), times the weight, one plus the weight, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinkle_tune.catalog import liger, op_calls, triton
from twinkle_tune.catalog.norm import HALVES, NormFlavour, given_dtype, norm_flavour, sample
from twinkle_tune.catalog.norm_node import How, rms_normed
from twinkle_tune.catalog.probe import adds_nothing
from twinkle_tune.catalog.recompute import is_bare
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource


def flavour_of(module: nn.Module) -> NormFlavour | None:
    """How the module is an RMSNorm; None if it is not."""
    flavour = norm_flavour(module, _formula)
    return flavour if flavour is not None and flavour.bias is None else None


def contestants(flavour: NormFlavour, module: nn.Module, device: str) -> list[Candidate]:
    """Candidates for this flavour of RMSNorm."""
    x = sample(flavour.wide)
    settings = (flavour.weight, flavour.eps, flavour.offset, flavour.casts_last, flavour.to_weight)
    fused = fused_rms_norm(*settings)
    found = [
        Candidate(
            name="torch.vector_norm",
            source=ImplSource(kind="torch", impl=vector_norm_rms_norm(*settings)),
        )
    ]
    if not adds_nothing(module, fused, x):
        found.insert(0, Candidate(name="torch.rms_norm", source=ImplSource(kind="torch", impl=fused)))
    source = ImplSource(kind="torch", impl=as_node(flavour))
    found.append(Candidate(name="torch.node", source=source))
    # Liger takes eps as a number.
    if liger.offered(device) and isinstance(getattr(module, flavour.eps), float):
        casting = "gemma" if flavour.casts_last else "llama"
        impl = liger.rms_norm(flavour.weight, flavour.eps, flavour.offset, casting, flavour.to_weight)
        found.append(liger.candidate(impl))
    if triton.offered(device):
        make = triton.rms_norm(*settings)
        call_of = op_calls.of_rms_norm(flavour.weight, flavour.offset, flavour.casts_last)
        found.append(triton.candidate(make, "rms_norm", call_of=call_of))
    return found


def fused_rms_norm(
    weight: str | None, eps: str, offset: float, casts_last: bool, to_weight: bool = False
) -> Callable[..., Any]:
    """A forward made of ``torch.nn.functional.rms_norm``."""
    if weight is None:

        def forward(self: Any, x: Tensor) -> Any:
            return F.rms_norm(x, x.shape[-1:], None, getattr(self, eps))

    elif offset == 0.0:

        def forward(self: Any, x: Tensor) -> Any:
            scale = getattr(self, weight)
            if scale.dtype == x.dtype:
                return F.rms_norm(x, scale.shape, scale, getattr(self, eps))
            # With two dtypes torch leaves its fused kernel, and says so in a warning.
            # A norm that goes by its weight's dtype does not round to its input's before.
            wide = x.to(torch.promote_types(x.dtype, scale.dtype)) if to_weight else x
            normed = F.rms_norm(wide, scale.shape, None, getattr(self, eps))
            if to_weight and scale.dtype in HALVES:
                normed = normed.to(scale.dtype)
            return (normed * scale).to(given_dtype(x.dtype, scale.dtype, casts_last, to_weight))

    else:

        def forward(self: Any, x: Tensor) -> Any:
            scale = getattr(self, weight)
            dtype = torch.promote_types(x.dtype, scale.dtype)
            # One plus a small weight is not a number that half precision can hold.
            exact = torch.promote_types(dtype, torch.float32)
            normed = F.rms_norm(x.to(exact), scale.shape, scale.to(exact) + offset, getattr(self, eps))
            return normed.to(given_dtype(x.dtype, scale.dtype, casts_last, to_weight))

    return forward


def as_node(flavour: NormFlavour) -> Callable[..., Any]:
    """A forward that is one node of autograd (:mod:`twinkle_tune.catalog.norm_node`)."""

    def forward(self: Any, x: Tensor) -> Any:
        scale = self._parameters[flavour.weight] if flavour.weight else None
        if not is_bare(x, scale):
            return type(self).forward(self, x)
        return rms_normed(x, scale, How.of(flavour, getattr(self, flavour.eps), x.dtype))

    return forward


def vector_norm_rms_norm(
    weight: str | None, eps: str, offset: float, casts_last: bool, to_weight: bool = False
) -> Callable[..., Any]:
    """A forward whose mean of squares is one reduction, without a tensor of squares; float32 inside."""

    def forward(self: Any, x: Tensor) -> Any:
        exact = torch.promote_types(x.dtype, torch.float32)
        eps_value = getattr(self, eps)
        if eps_value is None:
            eps_value = torch.finfo(x.dtype).eps
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        normed = x * torch.rsqrt(length * length / x.shape[-1] + eps_value)
        if weight is None:
            return normed.to(x.dtype)
        scale = getattr(self, weight)
        dtype = given_dtype(x.dtype, scale.dtype, casts_last, to_weight)
        if offset:
            scale = scale.to(exact) + offset
        return (normed * scale).to(dtype)

    return forward


def _formula(module: nn.Module, x: Tensor, flavour: NormFlavour) -> Tensor:
    weight = getattr(module, flavour.weight) + flavour.offset if flavour.weight else None
    return F.rms_norm(x, (flavour.wide,), weight, getattr(module, flavour.eps))
