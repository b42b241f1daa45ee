"""What the judge can say of a candidate. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from twinkle_tune.outcome import ParityFigure


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The candidate is right on every input that was tried.

    Attributes:
        figures: for each output and gradient the comparison that came closest to its limit, over all calls.
        deterministic: whether two runs on equal inputs gave equal bits.
    """

    figures: tuple[ParityFigure, ...]
    deterministic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The candidate is wrong.

    Attributes:
        point: which point of the rule it failed (1 form, 2 whole tensor, 3 slice, 4 element).
        tensor: the output, gradient or argument ("output[0]", "gradient of weight").
        error, limit: in the unit of the tensor; for a failure of form the number of offending places, and 0.
        reason: what is wrong and where, in a sentence for people.
    """

    point: int
    tensor: str
    error: float
    limit: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inconclusive:
    """These inputs cannot tell a right candidate from a wrong one, so none may pass on them."""

    reason: str


Finding = ParityFigure | Reject
"""Of one tensor: the comparison that came closest to its limit, or the first that failed."""
Verdict = Pass | Reject | Inconclusive
