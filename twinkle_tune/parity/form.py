"""Point 1 of the rule for one tensor, and equality of bits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from twinkle_tune.outcome import ParityFigure
from twinkle_tune.parity.verdict import Finding, Reject

RULE = 1
"""Counted up when a point of the rule changes, here or in ``compare.py``: outcomes from before must not be reused."""


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one form hold the same bits (NaN equals itself, 0 differs from -0)."""
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    kind = kinds[a.element_size()]
    return torch.equal(a.detach().view(kind), b.detach().view(kind))


def misformed(baseline: Tensor, candidate: Tensor, tensor: str) -> Reject | None:
    for what in ("type", "dtype", "shape", "device", "layout"):
        expected, got = (type(t) if what == "type" else getattr(t, what) for t in (baseline, candidate))
        if expected != got:
            return _form(tensor, 1, f"{what} is {_short(got)}, expected {_short(expected)}", what)
    if not (baseline.is_floating_point() or baseline.is_complex()):
        return None
    if bool(torch.isfinite(baseline).all()) and bool(torch.isfinite(candidate).all()):
        return None
    if baseline.is_complex():
        baseline, candidate = (
            torch.view_as_real(baseline.resolve_conj()),
            torch.view_as_real(candidate.resolve_conj()),
        )
    differ = (baseline.isnan() != candidate.isnan()) | (
        (baseline.isinf() | candidate.isinf()) & (baseline != candidate) & ~baseline.isnan()
    )
    count = int(differ.sum())
    if count == 0:
        return None
    where = position(int(differ.reshape(-1).int().argmax()), differ.shape)
    got, expected = (
        candidate[where].item() if where else candidate.item(),
        (baseline[where] if where else baseline).item(),
    )
    what = f"{got} at {at(where)} where the original has {expected:.6g} ({count} such elements)"
    return _form(tensor, count, what, at(where))


def _form(tensor: str, count: int, what: str, where: str) -> Reject:
    return Reject(point=1, tensor=tensor, error=float(count), limit=0.0, reason=f"{tensor}: {what}", where=where)


def equality(baseline: Tensor, candidate: Tensor, tensor: str) -> Finding:
    differ = baseline != candidate
    count = int(differ.sum())
    if count == 0:
        return ParityFigure(tensor=tensor, point=4, error=0.0, limit=0.0)
    where = position(int(differ.reshape(-1).int().argmax()), differ.shape)
    reason = f"{tensor}: {count} of {differ.numel()} values of {baseline.dtype} differ, the first at {at(where)}"
    return Reject(point=4, tensor=tensor, error=float(count), limit=0.0, reason=reason, where=at(where))


def position(flat: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(i) for i in reversed(list(_digits(flat, shape))))


def _digits(flat: int, shape: torch.Size) -> Iterator[int]:
    for size in reversed(shape):
        yield flat % size
        flat //= size


def at(where: tuple[int, ...]) -> str:
    return f"index {list(where)}" if where else "the only element"


def _short(value: object) -> str:
    return str(list(value)) if isinstance(value, torch.Size) else str(value)
