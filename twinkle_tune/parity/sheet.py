"""What is gathered over the runs of one candidate, and the words for what went wrong on which call."""

from __future__ import annotations

from dataclasses import dataclass, field

from twinkle_tune.errors import in_a_line
from twinkle_tune.outcome import ParityFigure
from twinkle_tune.parity.calls import Kin
from twinkle_tune.parity.verdict import Doubt, Finding, Reject


@dataclass(slots=True)
class Sheet:
    """What is gathered over the runs of one candidate."""

    closest: dict[str, ParityFigure] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    deterministic: bool = True

    def enter(self, finding: Finding | Doubt) -> Reject | None:
        """Keep what came closest to its limit; a refusal is given back."""
        if isinstance(finding, Reject):
            return finding
        if isinstance(finding, Doubt):
            self.notes[f"point 5, {finding.refusal.reason}"] = None
            finding = finding.figure
        before = self.closest.setdefault(finding.tensor, finding)
        if finding.error * before.limit > before.error * finding.limit:
            self.closest[finding.tensor] = finding
        return None


def raised_on(kin: Kin, error: Exception, sheet: Sheet) -> Reject | None:
    """What an exception on a call of another size or layout means: a refusal, or a note."""
    what = f"raises {in_a_line(error, 200)} on {kin.what}, which the original takes"
    if kin.may_raise:
        sheet.notes[what] = None
        return None
    return Reject(point=1, tensor="output", error=1.0, limit=0.0, reason=f"the candidate {what}", where=kin.what)


def on_call(refusal: Reject, number: int, of: int, kin: Kin | None) -> Reject:
    """The refusal with the call on which it came."""
    return Reject(
        point=refusal.point,
        tensor=refusal.tensor,
        error=refusal.error,
        limit=refusal.limit,
        reason=f"{refusal.reason} (on call {number} of {of}{f', {kin.what}' if kin else ''})",
        where=refusal.where,
    )
