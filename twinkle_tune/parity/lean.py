"""Errors that lean to one side: what a constant or an exponent that is a little wrong does, and rounding does not.

In half precision a constant that is 2% off moves each result by less than the dtype rounds it, and every point of the
rule that looks at sizes lets it pass. But rounding goes up as often as down. So the signed differences between
candidate and original are added up over all calls, for each power of two of ``|r|`` and each sign of r apart. What is
left of a sum of n independent roundings is about its square root. The elements of a row share errors, and so do those
of a column: the sum's own spread is taken from the sums of rows and of columns, whichever is larger.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from twinkle_tune.parity.run import Run
from twinkle_tune.parity.verdict import Doubt, Finding, Reject

_SURE = 7.0
"""So many times its spread a sum must be off. Right implementations reached 4.8 over all bands that were tried."""
_HALF_LEAST, _LEAST = 0.1, 1.0
"""And the mean difference so many times the noise of an element: 0.03 units of half precision, 8 of float32, in
which another right formula may well be off to one side by one or two."""
_FEWEST = 256
_BANDS, _BIAS = 164, 40
_QUANTA = 32.0
"""What is so few of the dtype's smallest steps is rounded to one side by the size of the step alone."""
_SAMPLE = 1 << 21
"""Of larger tensors rows in equal distances, to about so many elements: enough to tell."""


@dataclass(slots=True)
class Lean:
    """Sums over the calls of one candidate: of c - b, c - r, b - r, spreads, elements and noise, by tensor."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)

    def take(self, reference: Run, baseline: Run, candidate: Run, findings: Iterable[Finding | Doubt]) -> None:
        """Take in the runs of one call; nothing where one of the findings is a refusal already."""
        if any(isinstance(finding, Reject) for finding in findings):
            return
        for name, tensor in baseline.tensors.items():
            self.add(name, reference.tensors[name], tensor, candidate.tensors[name])

    def add(self, name: str, reference: Tensor, baseline: Tensor, candidate: Tensor) -> None:
        """Take in one tensor of one call; those that tell nothing are passed over."""
        if not baseline.is_floating_point() or baseline.dim() == 0 or baseline.numel() < _FEWEST:
            return
        if torch.finfo(reference.dtype).eps >= torch.finfo(baseline.dtype).eps:
            return
        found = _sums(reference, baseline, candidate)
        self.sums[name] = self.sums[name] + found if name in self.sums else found
        self.dtypes[name] = baseline.dtype

    def refusal(self) -> Reject | None:
        """The tensor and the band whose errors lean most, where they surely do."""
        worst: tuple[float, str, int] = (_SURE, "", 0)
        for name, sums in self.sums.items():
            apart, mine, theirs, rows, columns, each, count, noise = sums
            spread = torch.maximum(torch.maximum(rows, columns), each).clamp(min=1e-300).sqrt()
            usual = (count * noise).sqrt()
            least = _HALF_LEAST if torch.finfo(self.dtypes[name]).bits < 32 else _LEAST
            # Away from the truth, and further than the original: who is nearer to it may differ as he likes.
            leans = (apart * mine > 0) & (mine.abs() >= theirs.abs()) & (apart.abs() >= least * usual)
            sure = torch.where(leans & (count >= _FEWEST), apart.abs() / spread, 0.0)
            at = int(sure.argmax())
            worst = max(worst, (float(sure[at]), name, at))
        return None if not worst[1] else self._refused(*worst)

    def _refused(self, sure: float, name: str, at: int) -> Reject:
        apart, *_, count, noise = (float(row[at]) for row in self.sums[name])
        sign = "" if at % 2 == 0 else "-"
        where = f"where r is about {sign}2^{at // 2 - _BIAS - 1}"
        error, limit = abs(apart) / count, _SURE / sure * abs(apart) / count
        reason = (
            f"{name}: the errors lean to one side: {where}, {int(count)} elements differ from the original by "
            f"{apart / count:.3g} on average, {sure:.3g} times what chance leaves (at most {_SURE:g}), and "
            f"{error / math.sqrt(noise / count):.2g} of one element's noise; a constant or an exponent may be off"
        )
        return Reject(point=5, tensor=name, error=error, limit=limit, reason=reason, where=where)


def _sums(reference: Tensor, baseline: Tensor, candidate: Tensor) -> Tensor:
    """[8, bands]: see :class:`Lean`."""
    dtype, width = baseline.dtype, baseline.shape[-1]
    r, b, c = (t.detach().reshape(-1, width) for t in (reference, baseline, candidate))
    step = max(1, r.numel() // _SAMPLE)
    r, b, c = (t[::step].double() for t in (r, b, c))
    quantum = 2.0**-24 if dtype is torch.float16 else float(torch.finfo(dtype).tiny)
    usable = torch.isfinite(r) & torch.isfinite(b) & torch.isfinite(c) & (r.abs() >= _QUANTA * quantum)
    r, b, c = (torch.where(usable, t, 0.0) for t in (r, b, c))
    apart, mine, theirs = c - b, c - r, b - r
    exponent = torch.frexp(r)[1].clamp(-_BIAS, _BANDS // 2 - _BIAS - 1) + _BIAS
    band = (exponent * 2 + (r < 0)).long()
    unit = torch.exp2(torch.frexp(r)[1].double() - 1) * torch.finfo(dtype).eps
    noise = torch.maximum(theirs.square(), (8 * unit if torch.finfo(dtype).bits >= 32 else 0.29 * unit).square())

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(_BANDS).index_add_(0, band.reshape(-1), values.reshape(-1))

    rows = apart.new_zeros(len(r), _BANDS).scatter_add_(1, band, apart).square().sum(0)
    columns = apart.new_zeros(width, _BANDS).scatter_add_(1, band.t(), apart.t()).square().sum(0)
    return torch.stack(
        [total(apart), total(mine), total(theirs), rows, columns, total(apart.square()), total(usable.double()),
         total(torch.where(usable, noise, 0.0))]
    )  # fmt: skip
