"""What the judge can say of a candidate. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from twinkle_tune.cause import Cause
from twinkle_tune.outcome import ParityFigure

Strictness = Literal["normal", "strict"]
"""Whether point 5 (by magnitude) is noted on a pass, or refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The candidate is right on every input that was tried.

    Attributes:
        figures: for each output and gradient the comparison that came closest to its limit, over all calls.
        deterministic: whether two runs on equal inputs gave equal bits.
        notes: what a person should know although it refuses nothing, point 5 under "normal" above all.
    """

    figures: tuple[ParityFigure, ...]
    deterministic: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The candidate is wrong.

    Attributes:
        point: which point of the rule it failed (1 form, 2 whole tensor, 3 slice, 4 element, 5 magnitude,
            7 what two calls share).
        tensor: the output, gradient or argument ("output[0]", "gradient of weight").
        error, limit: in the unit of the tensor; for a failure of form the number of offending places, and 0.
        reason: what is wrong and where, in a sentence for people.
        where: the place alone: the first or worst index, the slice, the band of magnitudes; "" for none.
    """

    point: int
    tensor: str
    error: float
    limit: float
    reason: str
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A tensor that points 1 to 4 let pass and point 5 does not: a note, or under "strict" a refusal."""

    figure: ParityFigure
    refusal: Reject


@dataclass(frozen=True, slots=True, kw_only=True)
class Inconclusive:
    """These inputs cannot tell a right candidate from a wrong one, so none may pass on them.

    ``no_room``: for want of memory, which may be there the next time.
    """

    reason: str
    no_room: bool = False

    @property
    def cause(self) -> Cause:
        """What a candidate is out for that cannot be judged."""
        return "no room" if self.no_room else "inconclusive"


Finding = ParityFigure | Reject
"""Of one tensor: the comparison that came closest to its limit, or the first that failed."""
Verdict = Pass | Reject | Inconclusive


def checked_strictness(value: str) -> Strictness:
    """``value`` itself.

    Raises:
        ValueError: there is no such strictness.
    """
    for known in get_args(Strictness):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise ValueError(f"strictness: got {value!r}, expected one of {', '.join(get_args(Strictness))}")
