"""Random tensors that move nobody's generator: a training run after a profile draws what it would have drawn."""

from __future__ import annotations

import torch
from torch import Tensor


def drawn_like(tensor: Tensor, seed: int) -> Tensor:
    """Standard normal numbers with the form, dtype and device of a tensor; equal seeds give equal ones."""
    generator = torch.Generator(tensor.device).manual_seed(seed)
    drawn = torch.randn(tensor.shape, generator=generator, device=tensor.device)
    return torch.empty_like(tensor).copy_(drawn)
