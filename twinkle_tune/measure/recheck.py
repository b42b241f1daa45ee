"""Point 8 of the parity rule around the race: who is wrong after it was timed is out, and can not have won."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from twinkle_tune.cause import OF_MEMORY, Cause, cause_of
from twinkle_tune.errors import in_a_line
from twinkle_tune.measure.chance import unless_by_chance
from twinkle_tune.measure.race import Decision
from twinkle_tune.parity.verdict import Inconclusive, Reject, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """What the judge has against somebody who was to be timed."""

    cause: Cause
    reason: str


Times = Mapping[str, tuple[float, ...]]


def race_until_right(
    names: tuple[str, ...],
    race: Callable[[tuple[str, ...]], tuple[Decision, Times]],
    judged_again: Mapping[str, Callable[[], Verdict]],
) -> tuple[Decision, Times, dict[str, Wrong]]:
    """Race, judge whoever was timed once more, and race anew without those that are wrong where one of them won.

    A loser that turned wrong leaves the decision as it is: it was held against the original alone, or against a
    winner that is right.

    Args:
        names: who races, the original among them.
        race: runs one race.
        judged_again: by name; those that are not in it (the original) are not judged.

    Returns:
        The last race's decision and times, and by name why those are wrong that are.
    """
    wrong: dict[str, Wrong] = {}
    while True:
        racing = tuple(name for name in names if name not in wrong)
        decision, times_us = race(racing)
        for name in racing:
            rounds = len(times_us.get(name, ()))
            if rounds and name in judged_again and (found := why_wrong(judged_again[name])):
                wrong[name] = _after(rounds, found)
        if decision.winner not in wrong:
            return decision, times_us, wrong


def _after(rounds: int, found: Wrong) -> Wrong:
    # What raised was refused by no rule and may not raise the next time.
    if found.cause == "raised" or found.cause in OF_MEMORY:
        reason = f"{found.reason}; it was right at first, and judged again after {rounds} timed rounds"
    else:
        reason = f"right at first, wrong after {rounds} timed rounds: {found.reason}"
    return Wrong(cause=found.cause, reason=reason)


def in_words(refusal: Reject) -> str:
    """A refusal as the reason of a rejection."""
    return f"point {refusal.point}, {refusal.tensor}: {refusal.reason}"


def why_wrong(judge: Callable[[], Verdict]) -> Wrong | None:
    """Why a judge does not pass what it judges, an exception included; None where it passes."""
    try:
        verdict = unless_by_chance(judge)
    except Exception as error:
        # A stranger's code, or a kernel with a config that nobody tried: that it worked before proves nothing.
        return Wrong(cause=cause_of(error), reason=f"raised {in_a_line(error, 200)}")
    match verdict:
        case Reject():
            return Wrong(cause="wrong", reason=in_words(verdict))
        case Inconclusive():
            return Wrong(cause=verdict.cause, reason=f"inconclusive: {verdict.reason}")
    return None
