"""Choosing among contests that touch each other. Pure: the same contests, the same choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from twinkle_tune.outcome import Measurement, Selection
from twinkle_tune.profile.schema import Contest, StepResult
from twinkle_tune.slot import ORIGINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A contest and where its calls came from: paths and names of the slots that were running around them."""

    contest: Contest
    inside: tuple[str, ...]


def choose_nested(placed: Sequence[Placed]) -> tuple[Contest, ...]:
    """Of a slot and the slots inside it, keep the winners of the better total, never of both.

    A winner was measured with the originals inside and around it, so two nested winners together were never
    measured. What the inner winners save in a step is held against what the outer one saves.
    """
    contests = [item.contest for item in placed]
    for outer_index, outer in enumerate(placed):
        inner = [
            index
            for index, item in enumerate(placed)
            if index != outer_index and _is_inside(item, outer.contest) and _won(contests[index])
        ]
        if not inner or not _won(contests[outer_index]):
            continue
        outer_saves_us = saved_us(contests[outer_index])
        inner_saves_us = sum(saved_us(contests[index]) for index in inner)
        if outer_saves_us >= inner_saves_us:
            for index in inner:
                contests[index] = keep_original(
                    contests[index], f"it runs inside {outer.contest.slot.name}, whose winner saves more"
                )
        else:
            names = ", ".join(dict.fromkeys(contests[index].slot.name for index in inner))
            contests[outer_index] = keep_original(contests[outer_index], f"the winners inside it ({names}) save more")
    return tuple(contests)


def saved_us(contest: Contest) -> float:
    """Microseconds that the winner saves, over all steps in which the contest's calls were seen."""
    original, winner = (contest.trial(name).outcome for name in (ORIGINAL, contest.selection.winner))
    if not (isinstance(original, Measurement) and isinstance(winner, Measurement)):
        return 0.0
    return (1 - contest.selection.ratio) * median(original.times_us) * sum(seen.calls for seen in contest.seen)


def keep_original(contest: Contest, why: str) -> Contest:
    """The contest with the original in the winner's place, and the reason."""
    lost = contest.selection
    reason = f"{why} ({lost.winner} alone took {lost.ratio:.2f} of the original's time)"
    return replace(contest, selection=Selection(winner=ORIGINAL, rounds=lost.rounds, reason=reason))


def drop_slow_steps(contests: Sequence[Contest], slow: Sequence[StepResult]) -> tuple[Contest, ...]:
    """Take back every winner that was called in a step that did not become faster as a whole.

    In doubt the original: winners that were measured one by one may still cost more than they save together.
    """
    labels = {step.label: step for step in slow}
    kept = []
    for contest in contests:
        seen = next((labels[s.step] for s in contest.seen if s.step in labels), None)
        if seen is not None and _won(contest):
            why = (
                f"the whole step {seen.label!r} took {seen.ratio:.3f} of its time with the winners "
                f"({seen.low:.3f} to {seen.high:.3f}), so they are taken back"
            )
            contest = keep_original(contest, why)
        kept.append(contest)
    return tuple(kept)


def verdict_of(contests: Sequence[Contest], steps: Sequence[StepResult]) -> str:
    """One sentence for the head of a profile."""
    won = [contest for contest in contests if _won(contest)]
    if not won:
        return f"Keep the original: none of {len(contests)} contests found a kernel that is right and clearly faster."
    slots = ", ".join(sorted({contest.slot.name for contest in won}))
    gains = [f"{s.label} takes {s.ratio:.3f} of its time ({s.low:.3f} to {s.high:.3f})" for s in steps if s.tuned_us]
    measured = "; ".join(gains) if gains else "the whole model was not timed"
    clear = any(s.high < 1 for s in steps if s.tuned_us)
    head = f"{len(won)} of {len(contests)} contests won by a kernel ({slots})"
    return f"{head}: {measured}." if clear or not gains else f"{head}, but no clear gain end to end: {measured}."


def _won(contest: Contest) -> bool:
    return contest.selection.winner != ORIGINAL


def _is_inside(inner: Placed, outer: Contest) -> bool:
    places = set(outer.instances) or {outer.slot.name}
    shares_step = {seen.step for seen in inner.contest.seen} & {seen.step for seen in outer.seen}
    return bool(places & set(inner.inside)) and bool(shares_step)
