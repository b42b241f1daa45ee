"""How a time budget is shared out: most of it for the contests, the rest for the whole model."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

_FOR_THE_MODEL = 0.3
"""At most this share is kept for the whole model; of a large budget it needs less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Moments on the monotonic clock; None where there is no limit.

    Attributes:
        contests_end_s: no candidate is begun after it.
        ends_s: the run is to be over.
        began_s: the run began.
        seconds: that it was given.
    """

    contests_end_s: float | None = None
    ends_s: float | None = None
    began_s: float = field(default_factory=time.monotonic, compare=False)
    seconds: float | None = None

    @property
    def took_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began_s

    @property
    def contests_left_s(self) -> float | None:
        """Seconds left for contests; None without a limit."""
        return None if self.contests_end_s is None else self.contests_end_s - time.monotonic()

    @property
    def left_s(self) -> float | None:
        """Seconds left for the run; None without a limit."""
        return None if self.ends_s is None else self.ends_s - time.monotonic()

    @property
    def is_used_up(self) -> bool:
        """Whether no contest may begin any more."""
        left_s = self.contests_left_s
        return left_s is not None and left_s <= 0


def budget_of(seconds: float | None, steps: int, step_s: float) -> Budget:
    """The budget of a run that begins now and has so many steps, each of which is timed for about ``step_s``."""
    if seconds is None:
        return Budget()
    now_s = time.monotonic()
    kept_s = min(_FOR_THE_MODEL * seconds, 2 * steps * step_s)
    return Budget(
        contests_end_s=now_s + seconds - kept_s, ends_s=now_s + seconds, began_s=now_s, seconds=seconds
    )  # fmt: skip
