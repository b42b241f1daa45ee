"""Choosing among contests that touch each other. Pure: the same contests, the same choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from twinkle_tune.outcome import Measurement, Selection
from twinkle_tune.profile.schema import Contest, StepResult
from twinkle_tune.slot import ORIGINAL

_TAKEN_BACK = "taken back"


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
    """Microseconds that the winner saves, over all steps in which the contest's calls were seen.

    Times of a block count as often as the block is called, not the slot, which it may call more than once.
    """
    original, winner = (contest.trial(name).outcome for name in (ORIGINAL, contest.selection.winner))
    if not (isinstance(original, Measurement) and isinstance(winner, Measurement)):
        return 0.0
    timed = sum(seen.calls for seen in contest.seen) / (1 if contest.timed_on is None else contest.timed_on.calls)
    return (1 - contest.selection.ratio) * median(original.times_us) * timed


def keep_original(contest: Contest, why: str) -> Contest:
    """The contest with the original in the winner's place, and the reason."""
    lost = contest.selection
    reason = f"{why}; by itself {lost.winner} took {lost.ratio:.2f} of the original's time"
    return replace(contest, selection=Selection(winner=ORIGINAL, rounds=lost.rounds, reason=reason))


def slots_with_winners(contests: Sequence[Contest], step: str) -> tuple[str, ...]:
    """Names of the slots whose winners run in a step, in the order of the contests."""
    return tuple(dict.fromkeys(c.slot.name for c in contests if _won(c) and _runs_in(c, step)))


def only_winners_of(contests: Sequence[Contest], slot: str, step: str) -> tuple[Contest, ...]:
    """The contests with no winners left but those of one slot in one step."""
    return tuple(
        c
        if not _won(c) or (c.slot.name == slot and _runs_in(c, step))
        else keep_original(c, "left out to measure another")
        for c in contests
    )


def culprits(alone: Mapping[str, StepResult]) -> dict[str, StepResult]:
    """Which slots' winners to take back from a step that did not become faster with all of them.

    Args:
        alone: the step with the winners of one slot alone, by slot.

    Returns:
        Those with which the step did not become faster; where each alone made it faster, the one that did least.
    """
    slow = {slot: result for slot, result in alone.items() if result.ratio >= 1.0}
    if slow or not alone:
        return slow
    worst = max(alone, key=lambda slot: alone[slot].ratio)
    return {worst: alone[worst]}


def take_back(contests: Sequence[Contest], step: str, slow: Mapping[str, StepResult]) -> tuple[Contest, ...]:
    """The originals back for some slots' winners in a step, with the figures of the step as the reason.

    In doubt the original: what was measured faster by itself, call after call, may cost more than it saves
    between the other operations of a model.
    """
    return tuple(
        keep_original(c, _why_back(step, slow[c.slot.name]))
        if _won(c) and _runs_in(c, step) and c.slot.name in slow
        else c
        for c in contests
    )


def take_back_wrong(contests: Sequence[Contest], step: str, wrong: Mapping[str, str]) -> tuple[Contest, ...]:
    """The originals back for some slots' winners of a step, wherever those run, with what was wrong as the reason.

    Args:
        contests: with their winners.
        step: that computed something else.
        wrong: what was wrong, by slot.
    """
    out = {(c.slot.name, c.selection.winner) for c in contests if c.slot.name in wrong and _runs_in(c, step)}
    return tuple(
        keep_original(c, f"{_TAKEN_BACK}: with it in step {step!r} {wrong[c.slot.name]}")
        if _won(c) and (c.slot.name, c.selection.winner) in out
        else c
        for c in contests
    )


def _why_back(step: str, result: StepResult) -> str:
    interval = f"({result.low:.3f} to {result.high:.3f})"
    return f"{_TAKEN_BACK}: with it the whole step {step!r} took {result.ratio:.3f} of its time {interval}"


def _runs_in(contest: Contest, step: str) -> bool:
    return any(seen.step == step for seen in contest.seen)


def verdict_of(contests: Sequence[Contest], steps: Sequence[StepResult]) -> str:
    """One sentence for the head of a profile."""
    won = [contest for contest in contests if _won(contest)]
    taken = sum(contest.selection.reason.startswith(_TAKEN_BACK) for contest in contests)
    if not won and taken:
        return (
            f"Keep the original: kernels won {taken} of {len(contests)} contests by themselves, "
            "but with them no step of the whole model became faster and stayed right."
        )
    if not won:
        return f"Keep the original: none of {len(contests)} contests found a kernel that is right and clearly faster."
    slots = ", ".join(sorted({contest.slot.name.rpartition(".")[2] for contest in won}))
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
