"""A plot's data, and the rows that several plots have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from twinkle_tune.objective import Aim
from twinkle_tune.report.charts import Kind
from twinkle_tune.report.rows import Row
from twinkle_tune.report.text import is_figure, one_line, ratio_text

LABEL = 26
"""Letters of a name on an axis."""
_AXIS_LIMIT = 3.0
"""An axis of ratios ends here: one very slow candidate must not flatten the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot's data.

    Attributes:
        name: unique in the report, and the name of an image file without its ending.
        kind: which of the forms it has.
        title: what it shows, in a line.
        text: the same for somebody who cannot see it: the figures are in a table beside it.
        rows: its data.
        changed: of a plot of shares, whether it shows a change.
    """

    name: str
    kind: Kind
    title: str
    text: str
    rows: tuple[Row, ...]
    changed: bool = False


def ratio_row(name: str, ratio: object, low: object, high: object, role: str) -> Row:
    """A row of a plot of ratios, its interval cut where the axis ends."""
    told = ratio_text(ratio, low, high) if role != "original" else "1.000, the original"
    beyond = is_figure(ratio) and float(str(ratio)) > _AXIS_LIMIT
    return {
        "name": name,
        "ratio": _cut(ratio),
        "low": _cut(low),
        "high": _cut(high),
        "role": role,
        "text": f"{ratio_text(ratio)}{' ▸' if beyond else ''}",
        "tip": f"{name}: {told}",
    }


def labels(names: Iterable[str], limit: int = LABEL) -> list[str]:
    """Names short enough for an axis, and still different from each other."""
    found: list[str] = []
    for name in names:
        short = one_line(name, limit)
        while short in found:
            short += "*"
        found.append(short)
    return found


def step_role(low: float, high: float, aim: Aim) -> str:
    """How a ratio's interval is marked: as a gain, a loss, or neither. By memory time that is allowed is no loss."""
    return "winner" if high < 1 else "slower" if low > (aim.most if aim.is_memory else 1) else "other"


def _cut(value: object) -> float | None:
    return min(float(str(value)), _AXIS_LIMIT) if is_figure(value) else None
