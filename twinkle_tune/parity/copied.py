"""A copy of a layer to be judged on."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from twinkle_tune.call.address import move_like

_CONSTANT_SPREAD = 0.25


def varied_copy(module: nn.Module, seed: int) -> nn.Module:
    """A copy at like addresses, its constant floating parameters spread by 0.25 around their value.

    Of a quantised or sparse weight one cannot tell what its values are, nor set them: it is copied as it is.
    """
    copied = copy.deepcopy(module)
    for offset, parameter in enumerate(copied.parameters()):
        values = parameter.detach()
        if _is_constant(values):
            generator = torch.Generator(values.device).manual_seed(seed + offset)
            noise = torch.randn(values.shape, generator=generator, device=values.device)
            parameter.data = (values + _CONSTANT_SPREAD * noise).to(values.dtype)
    move_like(copied, module)
    return copied


def _is_constant(values: Tensor) -> bool:
    if type(values) is not Tensor or values.layout is not torch.strided or not values.is_floating_point():
        return False
    return values.numel() > 0 and bool((values == values.reshape(-1)[0]).all())
