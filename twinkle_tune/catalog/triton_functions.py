"""Our rope and cross entropy, in the forms in which models call them. CUDA only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from twinkle_tune.catalog.triton import Maker
from twinkle_tune.ops.space import Config


def rotary(
    interleaved: bool, otherwise: Callable[..., Any], as_function: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Maker:
    """A rotary function.

    Args:
        interleaved: whether it turns neighbouring columns against each other, or halves.
        otherwise: what runs where our kernel does not: it takes four dimensions and one dtype.
        as_function: gives ``(q, k, cos, sin, unsqueeze_dim)`` the parameters of the original.
    """

    def make(config: Config | None) -> Callable[..., Any]:
        from twinkle_tune.ops.rope.op import fits, rope

        def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> Any:
            if unsqueeze_dim not in (1, 2) or q.dim() != 4 or k.dim() != 4 or not q.dtype == cos.dtype == sin.dtype:
                return otherwise(q, k, cos, sin, unsqueeze_dim)
            heads_first = unsqueeze_dim == 1
            seen_q, seen_k = (q, k) if heads_first else (q.transpose(1, 2), k.transpose(1, 2))
            if not fits(seen_q, seen_k, cos, sin):
                return otherwise(q, k, cos, sin, unsqueeze_dim)
            turned_q, turned_k = rope(seen_q, seen_k, cos, sin, interleaved=interleaved, config=config)
            return (turned_q, turned_k) if heads_first else (turned_q.transpose(1, 2), turned_k.transpose(1, 2))

        return as_function(turn)

    return make


def loss(as_loss: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Maker:
    """The loss of a language model, from ``(logits, target, ignore_index, reduction)``.

    It leaves the logits alone and adds up in the same order every time.
    """

    def make(config: Config | None) -> Callable[..., Any]:
        from twinkle_tune.ops.cross_entropy.op import cross_entropy

        def of_rows(source: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor:
            if target.dtype != torch.int64 or target.shape != source.shape[:1]:
                return F.cross_entropy(source, target, ignore_index=ignore_index, reduction=reduction)
            found = cross_entropy(source, target, ignore_index=ignore_index, reduction=reduction, config=config)
            return found.to(source.dtype)

        return as_loss(of_rows)

    return make
