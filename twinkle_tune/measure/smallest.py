"""Who takes the least memory: among candidates that are right, the smallest, by peaks and paired times. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.objective import Aim
from twinkle_tune.slot import ORIGINAL

MIN_GAIN = 0.02
MIN_BYTES = 4096
"""A page of memory. Figures of memory hardly vary: what is less than these is not noise, but not worth a change."""
FEWEST_ROUNDS = 6
"""Below this no interval reaches 95%."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Smallest:
    """Who won, and why the others did not.

    Attributes:
        winner: a candidate's name, or "original".
        reason: why it won, or why the original stays.
        left: why each of the others did not win, by name.
    """

    winner: str
    reason: str
    left: Mapping[str, str] = field(default_factory=dict)


def margin_bytes(original_bytes: int) -> float:
    """By how much a peak must differ to count: 2% of the original's, and at least 4 KiB."""
    return max(MIN_BYTES, MIN_GAIN * original_bytes)


def is_smaller(peak_bytes: int | None, original_bytes: int | None) -> bool:
    """Whether a peak is clearly smaller than the original's; what is not known is not."""
    if peak_bytes is None or original_bytes is None:
        return False
    return original_bytes - peak_bytes >= margin_bytes(original_bytes)


def memory_ratio(peak_bytes: int | None, original_bytes: int | None) -> float | None:
    """A peak over the original's; None where one is not known, or the original takes nothing."""
    if peak_bytes is None or not original_bytes:
        return None
    return round(peak_bytes / original_bytes, 4)


def smallest(peaks: Mapping[str, int | None], times_us: Mapping[str, Sequence[float]], aim: Aim) -> Smallest:
    """The winner by memory: the smallest peak of those that are not too slow; near ties go to the faster one.

    Too slow is whose interval (at least 95%, paired rounds) reaches beyond the slowdown: in doubt the original stays.

    Args:
        peaks: bytes of one call by name, "original" among them.
        times_us: microseconds by name, paired by position; who has none has not been timed and cannot win.
        aim: by memory or balanced.
    """
    original_bytes = peaks[ORIGINAL]
    left: dict[str, str] = {}
    slow = 0
    fit: dict[str, Ratio] = {}
    for name, peak in peaks.items():
        if name == ORIGINAL:
            continue
        if not is_smaller(peak, original_bytes):
            left[name] = not_smaller(peak, original_bytes)
            continue
        if not times_us.get(name) or not times_us.get(ORIGINAL):
            left[name] = "was not timed"
            continue
        figure = paired_ratio(times_us[name], times_us[ORIGINAL])
        too_slow = _too_slow(figure, aim)
        if too_slow:
            left[name] = too_slow
            slow += 1
        else:
            fit[name] = figure
    if not fit:
        return Smallest(winner=ORIGINAL, reason=_why_none(left, slow, aim), left=left)
    least = min(peaks[name] or 0 for name in fit)
    near = [name for name in fit if (peaks[name] or 0) - least < margin_bytes(original_bytes or 0)]
    winner = min(near, key=lambda name: fit[name].ratio)
    reason = gain_text(memory_ratio(peaks[winner], original_bytes), fit[winner])
    for name in fit:
        if name != winner:
            than = f"about as small as {winner}, and not faster" if name in near else f"larger than {winner}"
            left[name] = f"{than}: {share_text(memory_ratio(peaks[name], original_bytes))}"
    return Smallest(winner=winner, reason=reason, left=left)


def share_text(memory: float | None) -> str:
    """A ratio of peaks in words: "0.204 of the original's peak memory"."""
    return "peak memory unknown" if memory is None else f"{memory:.3f} of the original's peak memory"


def gain_text(memory: float | None, time: Ratio) -> str:
    """What a winner by memory needs, in words: its memory, and plainly what time it takes."""
    what = "more time" if time.low > 1 else "less time" if time.high < 1 else "no clear difference in time"
    return f"{share_text(memory)}, {what}: {time.ratio:.3f} ({time.low:.3f} to {time.high:.3f}, {time.rounds} rounds)"


def not_smaller(peak_bytes: int | None, original_bytes: int | None) -> str:
    """Why a candidate is not clearly smaller, in words."""
    if peak_bytes is None or original_bytes is None:
        return "its peak memory is not known"
    if not original_bytes:
        return "the original takes no memory of its own"
    return f"not clearly smaller: {share_text(memory_ratio(peak_bytes, original_bytes))}"


def _too_slow(figure: Ratio, aim: Aim) -> str:
    if aim.slowdown is None or (figure.high <= aim.slowdown and figure.rounds >= FEWEST_ROUNDS):
        return ""
    told = f"{figure.ratio:.3f} ({figure.low:.3f} to {figure.high:.3f}, {figure.rounds} rounds)"
    return f"smaller, but not shown to take at most {aim.slowdown:g}x the time: {told}"


def _why_none(left: Mapping[str, str], slow: int, aim: Aim) -> str:
    if not left:
        return "there was no candidate to hold against the original"
    if slow:
        return f"no candidate was clearly smaller within {aim.slowdown:g}x the time; {slow} took more, or may have"
    return "no candidate took clearly less memory"
