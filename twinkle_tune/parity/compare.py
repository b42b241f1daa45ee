"""The rule for one tensor: is a candidate no further from the truth than the original's own rounding allows?

Pure. ``r`` is the original in float64, ``b`` the original in the run dtype ("baseline"), ``c`` the candidate,
``q`` is ``r`` rounded to the run dtype; RMS(t) = sqrt(mean(t^2)). The noise of the original is the larger of
RMS(b - r) and RMS(q - r).

1. Form: type, dtype, shape, device and the places of non-finite values are b's. Integers, booleans equal b.
2. Whole tensor: RMS(c - r) <= 2 noise.
3. Each slice along each dimension: RMS(c - r) <= 4 times the larger of that slice's own noise and the noise
   of the whole tensor relative to its magnitude.
4. Each element: ``|c - r|`` <= the largest of 8 times its row's noise, 8 units in the last place of r, and
   2 max|b - r|.
5. Each power of two of ``|r|``: as point 3, over the elements of that magnitude. What is wrong only where the
   result is small (the tails of a GELU) is lost in a slice.

Four things keep right candidates from being refused by chance:

- In float32 and float64, |q - r| is replaced by a floor that is no less: an original that rounds luckily (or
  exactly) would else ask its rivals for the same luck. See :func:`_rounding`.
- A slice's noise counts as no less than RMS(r) / 2^19, sixteen units in the last place of float32: what is left
  of a gradient row where a softmax saturates is rounding dust, and nothing in it is right or wrong. Likewise
  no element's limit is less than RMS(r) / 2^14, an eighth of what a drop to TF32 costs: a causal row of one
  key has a gradient of exactly 0, of which another order of additions leaves a unit in the last place of what
  cancelled.
- An RMS over n errors is itself uncertain. The ratio of two of them follows an F distribution with (n, n)
  degrees of freedom, so the limits of points 2 and 4 are widened by 1 + 16/n (nothing for a layer's output,
  much for a loss), and slices of fewer than 32 elements are taken together with their neighbours until 32
  are reached: F(32, 32) > 4^2 has a probability of about 1e-12. For the original's own errors e = b - r, n is
  how many of them count, (sum e^2)^2 / sum e^4: where one score of an attention is large, its one rounding is
  most of the error of all gradients that it reaches, and a rival's rounding of it is another.
- The errors of a slice, or of a whole tensor, may be one error, so that its n is 1 however many there are. Where point
  2 or 3 refuses by little, the noise is measured over more roundings of the original: see
  :mod:`twinkle_tune.parity.anew`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twinkle_tune.outcome import ParityFigure
from twinkle_tune.parity.form import at, equality, misformed, position
from twinkle_tune.parity.tally import BAND_BIAS, ELEMENT_FACTOR, Tally, gather
from twinkle_tune.parity.verdict import Doubt, Finding, Reject

TENSOR_FACTOR, SLICE_FACTOR, PEAK_FACTOR = 2.0, 4.0, 2.0
WIDENING = 16
SLICE_ELEMENTS = 32
SLICE_FLOOR, ELEMENT_FLOOR = 2.0**-19, 2.0**-14
SMALL = 64
"""Tensors of fewer elements are judged with the noise that other calls showed as well, see :class:`Noise`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The original's noise over several calls: ``relative`` to RMS(r), from ``count`` elements in all."""

    relative: float
    count: int


def compare(
    reference: Tensor,
    baseline: Tensor,
    candidate: Tensor,
    *,
    tensor: str = "output",
    seen: Noise | None = None,
    anew: Sequence[Sequence[Tensor]] = (),
) -> Finding | Doubt:
    """Compare one output or gradient of a candidate with the original's.

    Args:
        reference: the original in float64, of any shape; in the run dtype where no better could be had.
        baseline: the original in the run dtype.
        candidate: what is judged.
        tensor: its name in the finding.
        seen: the original's noise over all calls; matters for tensors with few elements (a loss).
        anew: errors of the original where its roundings fell otherwise (:mod:`twinkle_tune.parity.anew`); the noise of
            the tensor and of its slices is the root of the mean square over these and ``baseline``.

    Returns:
        The comparison that came closest to its limit, or the first point that failed; where that is point 5
        alone, both.
    """
    refusal = misformed(baseline, candidate, tensor)
    if refusal is not None:
        return refusal
    if baseline.numel() == 0 or not (baseline.is_floating_point() or baseline.is_complex()):
        return equality(baseline, candidate, tensor)
    r, b, c = (_real(t.detach()) for t in (reference, baseline, candidate))
    small = b.numel() < SMALL and seen is not None
    widening = 1 + WIDENING / (max(b.numel(), seen.count) if small and seen else b.numel())
    tally = gather(r, b, c, widening=widening)
    effective, first_noise = tally.effective, tally.own_noise  # of the first run: the sums of the others come next
    for sums, *others in zip(tally.slices, *anew, strict=True):
        sums[1] = torch.stack([sums[1], *others]).mean(dim=0)
    noise = max(tally.noise, seen.relative * tally.magnitude if small and seen else 0.0)
    concentrated = widening if small else 1 + WIDENING / effective
    whole = max(noise * widening, tally.own_noise * concentrated)
    dust = ELEMENT_FLOOR * tally.magnitude
    # Where all errors are one, the largest of a run was as lucky as the others.
    luck = max(1.0, tally.own_noise / first_noise) if first_noise else 1.0
    peak = ELEMENT_FACTOR * noise * widening if small else PEAK_FACTOR * tally.peak * luck * concentrated
    closest = ParityFigure(tensor=tensor, point=1, error=0.0, limit=0.0)
    for finding in (
        _whole(tally, tensor, TENSOR_FACTOR * whole),
        _worst_slice(tally, tensor),
        _worst_element(tally, tensor, max(dust, peak)),
    ):
        if isinstance(finding, Reject):
            return finding
        if _closeness(finding) > _closeness(closest):
            closest = finding
    band = closest if b.numel() < SMALL else _worst_band(tally, tensor)
    return Doubt(figure=closest, refusal=band) if isinstance(band, Reject) else closest


def noise_of(reference: Tensor, baseline: Tensor) -> Noise:
    """The original's noise on one call, for :func:`pooled`."""
    r, b = _real(reference.detach()), _real(baseline.detach())
    tally = gather(r, b, b, widening=1.0)
    return Noise(relative=tally.noise / tally.magnitude if tally.magnitude else 0.0, count=tally.count)


def pooled(noises: list[Noise]) -> Noise:
    """The noise over several calls: RMS of the relative noises."""
    mean = sum(noise.relative * noise.relative for noise in noises) / len(noises)
    return Noise(relative=math.sqrt(mean), count=sum(noise.count for noise in noises))


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _whole(tally: Tally, tensor: str, limit: float) -> Finding:
    figure = ParityFigure(tensor=tensor, point=2, error=tally.error, limit=limit)
    if figure.error <= limit:
        return figure
    reason = (
        f"{tensor}: the error over the whole tensor is {figure.error:.3g} (RMS), {_times(figure)} the limit "
        f"{limit:.3g} that the original's own rounding sets"
    )
    where = f"worst at {at(position(max(tally.excess, tally.nearest, key=_over)[2], tally.shape))}"
    return Reject(point=2, tensor=tensor, error=figure.error, limit=limit, reason=reason, where=where)


def _worst_slice(tally: Tally, tensor: str) -> Finding:
    totals = tally.totals
    relative_sq = max(totals[1:3]) / totals[3] if totals[3] else 0.0
    worst = ParityFigure(tensor=tensor, point=3, error=0.0, limit=tally.tiny or 1.0)
    for dim, sums in zip(tally.dims, tally.slices, strict=True):
        elements, width, grouped = _grouped(sums, tally.count)
        if grouped.shape[1] < 2:
            continue
        noise_sq = torch.maximum(torch.maximum(grouped[1], grouped[2]), relative_sq * grouped[3])
        error = (grouped[0] / elements).sqrt_()
        limit = (noise_sq / elements).sqrt_().clamp_(min=SLICE_FLOOR * tally.magnitude).mul_(SLICE_FACTOR)
        limit = limit.clamp_(min=1e-300)
        index = int((error / limit).argmax())
        found = ParityFigure(tensor=tensor, point=3, error=float(error[index]), limit=float(limit[index]))
        if found.error > found.limit:
            first, last = index * width, (index + 1) * width - 1
            last = last if index < grouped.shape[1] - 1 else sums.shape[1] - 1
            which = f"index {first}" if first == last else f"indices {first} to {last}"
            where = f"{which} of dimension {dim} (shape {list(tally.shape)})"
            reason = (
                f"{tensor}: {where} are off by "
                f"{found.error:.3g} (RMS), {_times(found)} the limit {found.limit:.3g} of that slice"
            )
            return Reject(point=3, tensor=tensor, error=found.error, limit=found.limit, reason=reason, where=where)
        worst = max(worst, found, key=_closeness)
    return worst


def _grouped(sums: Tensor, count: int) -> tuple[Tensor, int, Tensor]:
    """Slices joined until each group has enough elements: elements [G], slices a group, sums [4, G]."""
    size = sums.shape[1]
    each = count // size
    width = -(-SLICE_ELEMENTS // each)
    if width == 1:
        return torch.full((size,), float(each), dtype=sums.dtype, device=sums.device), 1, sums
    groups = max(1, size // width)
    # What is left over at the end joins the last group.
    group = (torch.arange(size, device=sums.device) // width).clamp_(max=groups - 1)
    elements = torch.zeros(groups, dtype=sums.dtype, device=sums.device)
    elements.index_add_(0, group, torch.full((size,), float(each), dtype=sums.dtype, device=sums.device))
    return elements, width, sums.new_zeros(4, groups).index_add_(1, group, sums)


def _worst_element(tally: Tally, tensor: str, floor: float) -> Finding:
    error, own_limit, index = tally.excess
    if error > max(own_limit, floor):
        limit = max(own_limit, floor)
        where = at(position(index, tally.shape))
        reason = f"{tensor}: the element at {where} is off by {error:.3g}, limit {limit:.3g}"
        return Reject(point=4, tensor=tensor, error=error, limit=limit, reason=reason, where=where)
    error, own_limit, _ = tally.nearest
    return ParityFigure(tensor=tensor, point=4, error=error, limit=max(own_limit, floor))


def _worst_band(tally: Tally, tensor: str) -> Finding:
    relative_sq = max(tally.totals[1:3]) / tally.totals[3] if tally.totals[3] else 0.0
    worst = ParityFigure(tensor=tensor, point=5, error=0.0, limit=tally.tiny or 1.0)
    for first, last, (wrong, noise, rounding, magnitude, count, fourth) in _joined_bands(tally):
        effective = noise * noise / fourth if fourth else count
        noise_sq = max(noise, rounding, relative_sq * magnitude)
        floor = max(SLICE_FLOOR * tally.magnitude, tally.tiny)
        limit = SLICE_FACTOR * max(math.sqrt(noise_sq / count), floor) * (1 + WIDENING / effective)
        found = ParityFigure(tensor=tensor, point=5, error=math.sqrt(wrong / count), limit=limit)
        if found.error > found.limit:
            where = f"where |r| is from 2^{first} to 2^{last + 1}"
            reason = (
                f"{tensor}: {where}, {int(count)} elements are off by {found.error:.3g} (RMS), {_times(found)} "
                f"the limit {found.limit:.3g} of that magnitude"
            )
            return Reject(point=5, tensor=tensor, error=found.error, limit=found.limit, reason=reason, where=where)
        worst = max(worst, found, key=_closeness)
    return worst


def _joined_bands(tally: Tally) -> Iterator[tuple[int, int, list[float]]]:
    """First and last exponent and sums of each group of neighbouring bands with enough elements, from below."""
    present = tally.bands[4].nonzero().reshape(-1)
    exponents = [int(band) - BAND_BIAS for band in present]
    groups: list[tuple[int, int, list[float]]] = []
    for exponent, sums in zip(exponents, tally.bands[:, present].t().tolist(), strict=True):
        if groups and groups[-1][2][4] < SLICE_ELEMENTS:
            first, _, before = groups.pop()
            groups.append((first, exponent, [a + b for a, b in zip(before, sums, strict=True)]))
        else:
            groups.append((exponent, exponent, sums))
    if len(groups) > 1 and groups[-1][2][4] < SLICE_ELEMENTS:
        (_, last, sums), (first, _, before) = groups.pop(), groups.pop()
        groups.append((first, last, [a + b for a, b in zip(before, sums, strict=True)]))
    # A single group is the whole tensor, which point 2 has judged.
    yield from groups if len(groups) > 1 else ()


def _over(found: tuple[float, float, int]) -> float:
    return found[0] / found[1] if found[1] else 0.0


def _closeness(figure: ParityFigure) -> float:
    return figure.error / figure.limit if figure.limit else 0.0


def _times(figure: ParityFigure) -> str:
    return f"{figure.error / figure.limit:.3g} times" if figure.limit else "above"
