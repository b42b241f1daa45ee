"""What won in a script's own steps, as a profile for its later runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.profile.schema import Profile, StepResult
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.gain import time_words

STEP = "script"
"""Label of what was raced in: the script's own steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Won:
    """How a race in a script's steps ended for its winner.

    Attributes:
        name: of the rival that stays.
        reason: why it won.
        original_us, winner_us: microseconds of the steps with the originals and with it; they pair by position.
    """

    name: str
    reason: str
    original_us: tuple[float, ...]
    winner_us: tuple[float, ...]

    @classmethod
    def of(cls, name: str, reason: str, times_us: Mapping[str, Sequence[float]]) -> Won | None:
        """The winner with its times; None where the originals stay."""
        if name == ORIGINAL:
            return None
        return cls(name=name, reason=reason, original_us=tuple(times_us[ORIGINAL]), winner_us=tuple(times_us[name]))


def raced_profile(profile: Profile, won: Won) -> Profile:
    """The rival's profile, which says that it won in the script's steps, and by how much of their time.

    Its contests keep the few times by which they were judged: those are no race. What the whole step gains stands in a
    step of its own, :data:`STEP`.
    """
    found = paired_ratio(won.winner_us, won.original_us)
    step = StepResult(
        label=STEP,
        original_us=won.original_us[: found.rounds],
        tuned_us=won.winner_us[: found.rounds],
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        note=f"in its own steps, in turn with the originals: {won.reason}",
    )
    reason = f"right in its contest; it won in the script's own steps, over {found.rounds} rounds"
    contests = tuple(
        contest
        if contest.selection.winner == ORIGINAL
        else replace(contest, selection=replace(contest.selection, reason=reason, status="won"))
        for contest in profile.contests
    )
    compiled = tuple(
        replace(
            way,
            original_us=step.original_us,
            compiled_us=step.tuned_us,
            ratio=step.ratio,
            low=step.low,
            high=step.high,
        )
        for way in profile.compiled
    )
    gain = time_words(found.ratio, found.low, found.high)
    verdict = f"Raced in the script's own steps, over {found.rounds} rounds: {won.name}, {gain}."
    return replace(profile, verdict=verdict, steps=(step, *profile.steps), contests=contests, compiled=compiled)
