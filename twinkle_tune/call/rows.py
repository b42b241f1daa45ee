"""A call with fewer rows: what of its tensors counts tokens, and what only happens to be as many."""

from __future__ import annotations

import torch
from torch import Tensor

from twinkle_tune.call.arguments import Call, mapped_once, named_tensors


def shortened(call: Call) -> Call | None:
    """The call with the last row of its tensors cut off; None where there is no row to spare.

    The rows are the longest dimension of the first floating tensor that every tensor of two or more dimensions
    has before its last one (tokens of hidden states, of a rotary table, of logits). Others lose the row along, in the
    dimension that lies as in the first, where several have that size: labels, masks in both of theirs. What is counted
    by a last dimension (width, classes, experts) stays, whatever its size. Whether the result is a call that makes
    sense, only the function that takes it can say.
    """
    first, dim = _rows_of(call)
    return None if first is None or dim is None else _cut(call, first, dim, first.shape[dim] - 1)


def with_rows(call: Call, rows: int) -> Call | None:
    """The call cut, as by :func:`shortened`, to about ``rows`` rows of its first floating tensor.

    None where it has none to spare, where a tensor is as wide as there are rows (of a mask, and of a width, half of
    which is another layer), or where it cannot be cut to anything between one and its own number of rows.
    """
    first, dim = _rows_of(call)
    if first is None or dim is None:
        return None
    size = first.shape[dim]
    if any(t.dim() and t.shape[-1] == size for _, t in named_tensors(call) if t.dim() > 1):
        return None
    beside = first.numel() // first.shape[-1] // size
    kept = round(rows / beside)
    return _cut(call, first, dim, kept) if 1 <= kept < size else None


def _rows_of(call: Call) -> tuple[Tensor | None, int | None]:
    """The first floating tensor of two or more dimensions, and the one of them that counts the rows."""
    tensors = [tensor for _, tensor in named_tensors(call)]
    first = next((t for t in tensors if t.is_floating_point() and t.dim() > 1), None)
    if first is None:
        return None, None
    # A tensor of one element per column (a weight that is an argument) has no rows.
    tables = [set(t.shape[:-1]) for t in tensors if t.dim() > 1 and any(size > 1 for size in t.shape[:-1])]
    shared = [
        (size, dim)
        for dim, size in enumerate(first.shape[:-1])
        if size > 1 and all(size in table for table in tables) and _is_alike_in(tensors, first, dim)
    ]
    # Of two of one size (batch or heads, and sequence) the later one.
    return first, max(shared)[1] if shared else None


def _is_alike_in(tensors: list[Tensor], first: Tensor, dim: int) -> bool:
    """Whether a dimension of ``first`` has its size in all floating tensors of that form: heads differ in q and k."""
    formed = (t for t in tensors if t.is_floating_point() and t.dim() == first.dim() and not _is_mask(t))
    return all(t.shape[dim] == first.shape[dim] for t in formed)


def _cut(call: Call, first: Tensor, dim: int, kept: int) -> Call:
    def cut(tensor: Tensor) -> Tensor:
        short = tensor.detach()
        for along in _row_dims(tensor, first, dim):
            short = short.narrow(along, 0, kept)
        return short.requires_grad_(tensor.requires_grad)

    return mapped_once(cut, call)


def _row_dims(tensor: Tensor, first: Tensor, dim: int) -> list[int]:
    """The dimensions of ``tensor`` that count what ``dim`` of ``first`` counts: by size, kind and place."""
    alike = [at for at, size in enumerate(tensor.shape) if size == first.shape[dim]]
    if alike and _is_mask(tensor):
        return [at for at in alike if at >= tensor.dim() - 2]
    if tensor.is_floating_point() or tensor.is_complex():
        found = [at for at in alike if at < tensor.dim() - 1]
        placed = tensor.dim() + dim - first.dim()  # hidden states and tables end alike
    else:
        found = [at for at in alike if at < first.dim() - 1]
        placed = dim  # labels and indices begin alike
    return [placed] if placed in found else found[-1:]


def _is_mask(tensor: Tensor) -> bool:
    """Whether it can say no more of a pair of places than yes or no."""
    if tensor.dtype is torch.bool:
        return True
    if tensor.is_complex() or tensor.dim() < (2 if tensor.is_floating_point() else 3):
        return False
    return bool(((tensor == tensor.min()) | (tensor == tensor.max())).all())
