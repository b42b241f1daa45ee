"""How a time budget is shared out: most of it for the contests, the rest for the whole model."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from twinkle_tune.errors import TuneError
from twinkle_tune.peers import now_s

KEPT = 0.3
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
    began_s: float = field(default_factory=now_s, compare=False)
    seconds: float | None = None

    @property
    def took_s(self) -> float:
        """Seconds since the run began."""
        return now_s() - self.began_s

    @property
    def contests_left_s(self) -> float | None:
        """Seconds left for contests; None without a limit."""
        return None if self.contests_end_s is None else self.contests_end_s - now_s()

    @property
    def left_s(self) -> float | None:
        """Seconds left for the run; None without a limit."""
        return None if self.ends_s is None else self.ends_s - now_s()

    @property
    def ways_end_s(self) -> float | None:
        """When ways of running the model that begin to compete now must be over: half of what is left is for slots."""
        left_s = self.contests_left_s
        return None if left_s is None else now_s() + left_s / 2

    def whole_end_s(self, compile_s: float) -> float | None:
        """When the kernels must be settled: what is left after it binds the ways that won.

        ``compile_s`` are the seconds that those took to compile, as they may once more.
        """
        return None if self.ends_s is None else self.ends_s - compile_s

    def sizes_end_s(self, compile_s: float) -> float | None:
        """When other sizes that are tried now must be over: half the rest, and ``compile_s``, binds the winners."""
        end_s = self.whole_end_s(compile_s)
        return None if end_s is None else (now_s() + end_s) / 2

    @property
    def is_used_up(self) -> bool:
        """Whether no contest may begin any more."""
        left_s = self.contests_left_s
        return left_s is not None and left_s <= 0


_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(budget: float | str | None) -> float | None:
    """Seconds of a number of them, or of a text such as "90s", "5m" or "1.5h"; None for no limit.

    Raises:
        TuneError: it is something else, or below zero.
    """
    if budget is None:
        return None
    seconds = _seconds(budget) if isinstance(budget, str) else float(budget)
    # A number of none at all is a run that holds no contest.
    if not 0 <= seconds < math.inf or (isinstance(budget, str) and not seconds):
        raise TuneError(f"budget_s: got {budget!r}, expected seconds, or a time such as '90s', '5m' or '1h'")
    return seconds


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    return float(match[1]) * _UNITS_S[match[2]] if match else 0.0


def budget_of(seconds: float | None, steps: int, step_s: float) -> Budget:
    """The budget of a run that begins now and has so many steps, each of which is timed for about ``step_s``."""
    if seconds is None:
        return Budget()
    now = now_s()
    kept_s = min(KEPT * seconds, 2 * steps * step_s)
    return Budget(
        contests_end_s=now + seconds - kept_s, ends_s=now + seconds, began_s=now, seconds=seconds
    )  # fmt: skip
