"""The sums behind the rule of :mod:`twinkle_tune.parity.compare`, gathered in one pass, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ELEMENT_FACTOR, ELEMENT_ULPS = 8.0, 8.0
BANDS, BAND_BIAS = 2048, 1023
"""Exponents of float64 as they are stored: band k holds ``2**(k - BAND_BIAS) <= |r| <`` twice that."""
_SPREAD = 256
"""Copies of the bands that a GPU adds into: most numbers of a tensor lie in few bands, where additions would queue."""
_CHUNK = 1 << 24
"""Elements that are worked on at once: bounds the memory for float64 copies to a few hundred MiB."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """Sums over a tensor, gathered chunk by chunk.

    Attributes:
        shape: as the caller sees it.
        dims: its dimensions of more than one element: those that have slices.
        slices: for each of them, float64 sums of squares [4, size] of c - r, b - r, the rounding floor and r.
        bands: float64 sums [6, 2048] by the exponent of r: the same four, the elements, and (b - r)^4.
        tiny: smallest RMS that counts: what a kernel may flush to zero.
        widening: what each element's own limit is multiplied with.
        peak: max|b - r|.
        excess: the largest ``|c - r|`` among elements above their own limit: value, limit, flat index.
        nearest: the same for the element with the largest ratio of ``|c - r|`` to its limit.
    """

    shape: torch.Size
    dims: list[int]
    slices: list[Tensor]
    bands: Tensor
    tiny: float
    widening: float
    peak: float = 0.0
    excess: tuple[float, float, int] = (0.0, 0.0, 0)
    nearest: tuple[float, float, int] = (0.0, 1.0, 0)

    @property
    def count(self) -> int:
        return self.shape.numel()

    @property
    def totals(self) -> list[float]:
        return [float(total) for total in self.slices[0].sum(dim=1)]

    @property
    def error(self) -> float:
        return math.sqrt(self.totals[0] / self.count)

    @property
    def noise(self) -> float:
        return max(math.sqrt(max(self.totals[1:3]) / self.count), self.tiny)

    @property
    def own_noise(self) -> float:
        """RMS of b - r."""
        return math.sqrt(self.totals[1] / self.count)

    @property
    def effective(self) -> float:
        """How many errors of b count: all where they are alike, few where a few are most of their energy."""
        fourth = float(self.bands[5].sum())
        return self.totals[1] * self.totals[1] / fourth if fourth else float(self.count)

    @property
    def magnitude(self) -> float:
        return math.sqrt(self.totals[3] / self.count)


def gather(reference: Tensor, baseline: Tensor, candidate: Tensor, *, widening: float) -> Tally:
    """All sums in one pass over the tensors; ``widening`` multiplies each element's own limit."""
    shape, dtype = baseline.shape, baseline.dtype
    dims = [dim for dim, size in enumerate(shape) if size > 1] or [0]
    sizes = [shape[dim] if shape else 1 for dim in dims]
    sums = [torch.zeros(4, size, dtype=torch.float64, device=baseline.device) for size in sizes]
    tally = Tally(
        shape=shape,
        dims=dims,
        slices=sums,
        bands=torch.zeros(6, BANDS, dtype=torch.float64, device=baseline.device),
        widening=widening,
        tiny=_quantum(dtype) if dtype is not torch.float16 else 0.0,
    )
    coarse = torch.finfo(reference.dtype).eps >= torch.finfo(dtype).eps
    r, b, c = (t.reshape(sizes) for t in (reference, baseline, candidate))
    per_index = math.prod(sizes[1:])
    step = sizes[0] if len(sizes) == 1 else max(1, _CHUNK // per_index)
    for start in range(0, sizes[0], step):
        piece = slice(start, start + step)
        _add(
            tally,
            *_finite(r[piece], b[piece], c[piece]),
            dtype=dtype,
            coarse=coarse,
            start=start,
            per_index=per_index,
        )
    return tally


def _finite(r: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In float64; elements that are not finite in b (point 1 judged them) are 0, those only in r are b's."""
    r, b, c = r.double(), b.double(), c.double()
    usable = torch.isfinite(b)
    if not bool(usable.all()):
        r, b, c = (torch.where(usable, t, 0.0) for t in (r, b, c))
    known = torch.isfinite(r)
    return (r if bool(known.all()) else torch.where(known, r, b)), b, c


def _add(
    tally: Tally,
    r: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    dtype: torch.dtype,
    coarse: bool,
    start: int,
    per_index: int,
) -> None:
    wrong, noise = (c - r).abs_(), (b - r).abs_()
    ulp = _ulp(r, dtype)
    rounding = _rounding(r, ulp, dtype, coarse=coarse)
    squares = (wrong.square(), noise.square(), rounding.square(), r.square())
    for row, square in enumerate(squares):
        for dim, sums in enumerate(tally.slices):
            others = [other for other in range(r.dim()) if other != dim]
            part = square.sum(dim=others) if others else square
            (sums[row, start : start + len(part)] if dim == 0 else sums[row]).add_(part)
    band = ((r.view(torch.int64) >> 52) & 0x7FF).reshape(-1)
    copies = 1 if band.device.type == "cpu" else _SPREAD
    values = (*squares, torch.ones_like(r), squares[1].square())
    tally.bands += by_band(band, [each.reshape(-1) for each in values], copies)
    row_noise = torch.maximum(squares[1].mean(-1, keepdim=True), squares[2].mean(-1, keepdim=True)).sqrt_()
    limit = torch.maximum(ELEMENT_FACTOR * row_noise, ulp.mul_(ELEMENT_ULPS)).mul_(tally.widening)
    tally.peak = max(tally.peak, float(noise.max()))
    for name, key in (("excess", torch.where(wrong > limit, wrong, 0.0)), ("nearest", wrong / limit)):
        index = int(key.argmax())
        found = (float(wrong.reshape(-1)[index]), float(limit.reshape(-1)[index]), start * per_index + index)
        before = getattr(tally, name)
        if float(key.reshape(-1)[index]) > (before[0] if name == "excess" else before[0] / before[1]):
            setattr(tally, name, found)


def by_band(band: Tensor, values: Sequence[Tensor], copies: int) -> Tensor:
    """Sums [len(values), BANDS] of each of the values (float64 [n]) by band (int64 [n]).

    Args:
        copies: neighbouring elements are added into so many copies of the bands in turn, which are added up at the end.
    """
    if copies > 1:
        turns = torch.arange(len(band), device=band.device) % copies
        band = turns.mul_(BANDS).add_(band)
    sums = torch.zeros(len(values), copies * BANDS, dtype=torch.float64, device=band.device)
    for row, each in enumerate(values):
        sums[row].index_add_(0, band, each)
    return sums.view(len(values), copies, BANDS).sum(1)


def _ulp(r: Tensor, dtype: torch.dtype) -> Tensor:
    """One unit in the last place of ``dtype`` at each element of ``r`` (float64)."""
    exponent = (r.view(torch.int64) & 0x7FF0_0000_0000_0000).view(torch.float64)
    return (exponent * torch.finfo(dtype).eps).clamp_(min=_quantum(dtype))


def _quantum(dtype: torch.dtype) -> float:
    """The smallest step that counts: float16 has subnormal numbers, the wider types may flush theirs."""
    return 2.0**-24 if dtype is torch.float16 else float(torch.finfo(dtype).tiny)


def _rounding(r: Tensor, ulp: Tensor, dtype: torch.dtype, *, coarse: bool) -> Tensor:
    """The noise that each element is granted whatever the original's own.

    Half precision: ``|q - r|``. float32: eight units in the last place. Another right formula (a softmax
    through its logarithm, gradients that cancel in another order) is several units off where the original
    happens to be within one, while silent drops to TF32 or bfloat16 are thousands of units off. Where the
    reference is no more precise than the run, the order of additions shows in full in ``c - r`` and not at
    all in ``b - r``: 32 units.
    """
    if dtype in (torch.float32, torch.float64):
        return ulp * (32.0 if coarse else 8.0)
    if coarse:
        return ulp.clone()
    q = r.to(dtype).double()
    return torch.where(torch.isfinite(q), (q - r).abs_(), ulp)
