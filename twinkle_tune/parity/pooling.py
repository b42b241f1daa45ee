"""The original's noise over several calls, for tensors whose few elements say little of it on one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from twinkle_tune.parity.compare import SMALL, Noise, noise_of, pooled
from twinkle_tune.parity.run import Run

Seen = Mapping[tuple[str, float], Noise]


def noises(runs: Iterable[tuple[Run, Run]]) -> Seen:
    """Of pairs of the original's reference and its run in the run dtype, by :func:`key`."""
    found: dict[tuple[str, float], list[Noise]] = {}
    for precise, baseline in runs:
        for name, tensor in baseline.tensors.items():
            if 0 < tensor.numel() < SMALL and tensor.is_floating_point() and bool(torch.isfinite(tensor).all()):
                found.setdefault(key(name, tensor, baseline), []).append(noise_of(precise.tensors[name], tensor))
    return {each: pooled(some) for each, some in found.items()}


def key(name: str, tensor: Tensor, run: Run) -> tuple[str, float]:
    """Tensors with equal keys have noise of one kind: float16 loses digits of gradients of a small scale."""
    scaled = tensor.dtype is torch.float16 and name in run.gradients
    return name, run.scale if scaled else 1.0
