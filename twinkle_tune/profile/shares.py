"""How much of a step its slots take: by the times that stand beside the shares, wherever there are such times. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median

from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.nested import called_in, parts_inside
from twinkle_tune.profile.schema import Contest, Profile, Seen, StepResult
from twinkle_tune.slot import ORIGINAL

_FAR_POINTS, _FAR_TIMES = 0.15, 1.5
"""Two measurements of a share that are this far apart, by their difference and their ratio, are not of one load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Two measurements of a slot's share of a step that do not agree.

    Attributes:
        step: its label.
        slot: the slot where they are furthest apart.
        in_model: the share while the model ran.
        timed: calls x the original's median ÷ the step's median; over 1 where the calls alone took longer.
        together: what slots side by side would take of the step by their times. Over 1 those do not count.
    """

    step: str
    slot: str
    in_model: float
    timed: float
    together: float

    @property
    def is_impossible(self) -> bool:
        """Whether the times cannot be those of parts of the step."""
        return self.together > 1


def step_us(step: StepResult) -> float | None:
    """Microseconds of a whole step with its originals, median; None where it was not timed.

    Where it was compared with the winners, those rounds count, else the runs before the contests.
    """
    times_us = step.original_us or step.alone_us
    return median(times_us) if times_us else None


def original_us(contest: Contest) -> float | None:
    """Microseconds of one call of the original, median of the race that decided; None where it was not timed."""
    won = contest.selection.winner != ORIGINAL
    for trials in (contest.confirmation if won else (), contest.trials):
        for trial in trials:
            if trial.candidate == ORIGINAL and isinstance(trial.outcome, Measurement):
                return trial.outcome.median_us
    return None


def with_shares(profile: Profile) -> Profile:
    """The profile with each contest's share of a step made of its calls: calls x the original's median ÷ the step's.

    So they agree with the times beside them, and in training hold the backward as well. Calls and step are timed in
    other minutes: where the load changed meanwhile, slots side by side can come to more than the whole step. Such times
    are no shares, and each share of that step is the one that was seen while the model ran (:func:`doubts` says so). A
    share stays as it was seen, too, where one of these times is missing, and in the compile modes, whose times are of
    other code than the steps'. A profile has its shares when it is made and when it is read: reports take them as they
    are.
    """
    if profile.mode.compiles:
        return profile
    steps = {label: whole for label, whole in _steps_us(profile).items() if _together(profile, label, whole) <= 1}
    contests = tuple(_with_shares(contest, steps) for contest in profile.contests)
    # What has its shares already stays what it is.
    unchanged = all(one is other for one, other in zip(contests, profile.contests, strict=True))
    return profile if unchanged else replace(profile, contests=contests)


def doubts(profile: Profile) -> Iterator[Doubt]:
    """The steps whose shares are uncertain, each with the slot whose two measurements are furthest apart.

    In training the share that was seen is the forward's: it is another figure, and casts no doubt by being another.
    """
    if profile.mode.compiles:
        return
    for label, whole_us in _steps_us(profile).items():
        together = _together(profile, label, whole_us)
        pairs = [
            Doubt(step=label, slot=contest.slot.name, in_model=_in_model(seen), timed=timed, together=together)
            for contest in called_in(profile.contests, label)
            for seen in contest.seen
            if seen.step == label and (timed := _timed(contest, seen, whole_us)) is not None
        ]
        worst = max(pairs, key=lambda pair: abs(pair.timed - pair.in_model), default=None)
        far = together > 1 + _FAR_POINTS or (worst is not None and not profile.mode.trains and _are_far(worst))
        if worst is not None and far:
            yield worst


def _steps_us(profile: Profile) -> dict[str, float]:
    return {step.label: known for step in profile.steps if (known := step_us(step))}


def _together(profile: Profile, label: str, whole_us: float) -> float:
    """What layers of which none lies in another take of a step by their times, or one function, if that is more."""
    here = called_in(profile.contests, label)
    layers, functions = 0.0, [0.0]
    for contest, inside in zip(here, parts_inside(here), strict=True):
        own = sum(_timed(contest, seen, whole_us) or 0.0 for seen in contest.seen if seen.step == label)
        if contest.instances:
            layers += own * (1 - inside)
        else:
            functions.append(own)  # which may be called inside any of the layers
    return max(layers, *functions)


def _are_far(pair: Doubt) -> bool:
    low, high = sorted((pair.in_model, pair.timed))
    return high - low > _FAR_POINTS and high > _FAR_TIMES * low


def _timed(contest: Contest, seen: Seen, whole_us: float) -> float | None:
    call_us = original_us(contest)
    return None if call_us is None or contest.block else seen.calls * call_us / whole_us


def _in_model(seen: Seen) -> float:
    return seen.share if seen.in_model is None else seen.in_model


def _with_shares(contest: Contest, steps: Mapping[str, float]) -> Contest:
    def shared(seen: Seen) -> Seen:
        in_model = _in_model(seen)
        if seen.step not in steps:
            return seen if seen.share == in_model else replace(seen, share=in_model)
        timed = _timed(contest, seen, steps[seen.step])
        if timed is None:
            return seen
        share = round(min(1.0, timed), 4)
        has_both = seen.share == share and seen.in_model is not None
        return seen if has_both else replace(seen, share=share, in_model=in_model)

    seen = tuple(map(shared, contest.seen))
    unchanged = all(one is other for one, other in zip(seen, contest.seen, strict=True))
    return contest if unchanged else replace(contest, seen=seen)
