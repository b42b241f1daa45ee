"""The loss of transformers' language models: cross entropy, the mean or the sum over a number of items."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from twinkle_tune.catalog import liger, op_calls, triton, triton_functions
from twinkle_tune.catalog.probe import generator, holds, random_like, same
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource

_NAMES = ["source", "target", "num_items_in_batch", "ignore_index"]


def is_loss(parameters: list[inspect.Parameter]) -> bool:
    """Whether a function with these parameters is by its form such a loss."""
    return [p.name for p in parameters[:4]] == _NAMES


def contestants(function: Callable[..., Any], parameters: list[inspect.Parameter], device: str) -> list[Candidate]:
    """Candidates for such a loss; none where a probe finds that it is another."""
    rest = [p.kind for p in parameters[4:]]
    if rest != [inspect.Parameter.VAR_KEYWORD] or not holds(lambda: _is_cross_entropy(function)):
        return []
    found = []
    if device != "cpu":
        # On a CPU it was several times slower than torch's own, forward and backward, at every size tried.
        found.append(Candidate(name="torch.logsumexp", source=ImplSource(kind="torch", impl=as_loss(by_logsumexp))))
    if liger.offered(device):
        found.append(liger.candidate(as_loss(by_liger)))
    if triton.offered(device):
        make = triton_functions.loss(as_loss)
        found.append(triton.candidate(make, "cross_entropy", call_of=op_calls.of_loss))
    return found


def as_loss(cross_entropy: Callable[[Tensor, Tensor, int, str], Any]) -> Callable[..., Any]:
    """A function with the parameters of the original, for logits (rows, classes) and class indices (rows)."""

    def loss_of(
        source: Tensor,
        target: Tensor,
        num_items_in_batch: Any = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> Any:
        reduction = "mean" if num_items_in_batch is None else "sum"
        if source.dim() == 2 and target.dim() == 1 and not target.is_floating_point():
            loss = cross_entropy(source, target, ignore_index, reduction)
        else:
            # Class probabilities, or more dimensions: rare enough for torch's own.
            loss = F.cross_entropy(source, target, ignore_index=ignore_index, reduction=reduction)
        if num_items_in_batch is None:
            return loss
        if isinstance(num_items_in_batch, Tensor):
            num_items_in_batch = num_items_in_batch.to(loss.device)
        return loss / num_items_in_batch

    return loss_of


def by_logsumexp(source: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor:
    """logsumexp(row) minus the row's target: the logarithms of all other classes are never written down."""
    logits = source.float() if source.dtype in (torch.float16, torch.bfloat16) else source
    kept = target != ignore_index
    picked = logits.gather(1, target.where(kept, 0).unsqueeze(1)).squeeze(1)
    total = (torch.logsumexp(logits, 1) - picked).where(kept, 0.0).sum()
    return (total / kept.sum() if reduction == "mean" else total).to(source.dtype)


def by_liger(source: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Any:
    """Liger's kernel, which makes the gradient on the way forward."""
    return liger.cross_entropy(source, target, ignore_index, reduction)


def _is_cross_entropy(function: Callable[..., Any]) -> bool:
    """On logits (5, 7), one row ignored: whether it is the mean, and the sum over the number of items."""
    source, target = random_like((5, 7), generator()), torch.tensor([0, 6, -100, 3, 3], device="cpu")
    mean, total = (F.cross_entropy(source, target, reduction=reduction) for reduction in ("mean", "sum"))
    return same(function(source, target), mean) and same(function(source, target, 3), total / 3)
