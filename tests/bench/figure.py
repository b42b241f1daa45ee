"""A figure: all its samples, and the goal that it is held against."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure: all samples in ``unit``, and the goal that their median must not exceed (None: no goal).

    One without samples says why it was not measured (``skipped``), and misses nothing.
    """

    name: str
    unit: str
    samples: tuple[float, ...]
    goal: float | None = None
    skipped: str = ""

    @property
    def median(self) -> float:
        """Median of the samples; not a number without any."""
        return median(self.samples) if self.samples else nan

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return bool(self.skipped) or self.goal is None or self.median <= self.goal

    @property
    def text(self) -> str:
        """ "12.3 ms (11.9 to 13.0, n=9)"."""
        if self.skipped:
            return self.skipped
        low, high = min(self.samples), max(self.samples)
        return f"{self.median:.3g} {self.unit} ({low:.3g} to {high:.3g}, n={len(self.samples)})"

    @property
    def goal_text(self) -> str:
        """ "at most 50 ms"."""
        return "none" if self.goal is None else f"at most {self.goal:g} {self.unit}"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        samples = [round(sample, 4) for sample in self.samples]
        told = {"skipped": self.skipped} if self.skipped else {"samples": samples, "median": self.median}
        return {"name": self.name, "unit": self.unit, **told, "goal": self.goal}
