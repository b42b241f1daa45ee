"""What a step of the whole model gained from its winners, by the objective. Pure."""

from __future__ import annotations

from twinkle_tune.measure.smallest import MIN_BYTES, memory_ratio
from twinkle_tune.objective import Aim
from twinkle_tune.profile.schema import Profile, StepResult


def step_memory_ratio(result: StepResult) -> float | None:
    """The step's peak with the winners over that without; None where one is not known."""
    return memory_ratio(result.tuned_peak_bytes, result.original_peak_bytes)


def gained(result: StepResult, aim: Aim) -> bool:
    """Whether a step that was compared gained what the objective asks for.

    By time, its median became smaller, and noise reaches no further beyond the original's time than the median lies
    below it: in doubt the original runs. By memory, its peak did, by 4 KiB or more: a small share of a step is much
    memory. Balanced, the interval of its time lies within the slowdown, too.
    """
    if not aim.is_memory:
        return result.ratio < 1.0 and result.high - 1.0 <= 1.0 - result.ratio
    if result.original_peak_bytes is None or result.tuned_peak_bytes is None:
        return False
    return result.original_peak_bytes - result.tuned_peak_bytes >= MIN_BYTES and result.high <= aim.most


def gained_clearly(result: StepResult, aim: Aim) -> bool:
    """Whether it did beyond the noise: by time its whole interval lies under 1; peaks of memory have no noise."""
    return gained(result, aim) if aim.is_memory else result.high < 1


def promised(profile: Profile, label: str, slot: str | None = None) -> float:
    """Share of a step that the winners save by themselves, by the larger share where two are known of a slot.

    ``slot``: that of one slot's winners alone.
    """
    return sum(
        max(seen.share, seen.in_model or 0.0) * (1 - contest.selection.ratio)
        for contest in profile.winners
        for seen in contest.seen
        if seen.step == label and slot in (None, contest.slot.name)
    )


def least(result: StepResult, aim: Aim) -> tuple[float, ...]:
    """A key by which steps are in order from who gained most to who gained least."""
    if not aim.is_memory or result.high > aim.most:
        return 1.0, result.ratio
    return 0.0, float(result.tuned_peak_bytes or 0)


def time_words(ratio: float, low: float, high: float) -> str:
    """A ratio of times as people say it: "2.8% faster (1.03x)", or what noise leaves open.

    "Faster" is the share of time saved, as everywhere; behind it is how many times as fast that is.
    """
    if high < 1:
        return f"{1 - ratio:.1%} faster ({1 / ratio:.2f}x)"
    if low > 1:
        return f"{ratio - 1:.1%} slower"
    return f"not measurably faster (between {_change(low)} and {_change(high)})"


def _change(ratio: float) -> str:
    return f"{1 - ratio:.1%} faster" if ratio < 1 else f"{ratio - 1:.1%} slower"


def figures(result: StepResult, aim: Aim) -> str:
    """The step's figures in words that follow "it": "took 1.100 of its time (1.090 to 1.110)"."""
    time = f"{result.ratio:.3f} of its time ({result.low:.3f} to {result.high:.3f})"
    if not aim.is_memory:
        return f"took {time}"
    memory = step_memory_ratio(result)
    told = "peak memory unknown" if memory is None else f"took {memory:.3f} of its peak memory"
    allowed = "" if aim.slowdown is None or result.high <= aim.slowdown else f", of which {aim.slowdown:g} is allowed"
    return f"{told} and {time}{allowed}"
