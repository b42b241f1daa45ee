"""Choosing among contests that touch each other. Pure: the same contests, the same choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from twinkle_tune.objective import BY_TIME, Aim
from twinkle_tune.outcome import Measurement, Selection, Status
from twinkle_tune.profile.schema import Contest, StepResult
from twinkle_tune.slot import ORIGINAL, SlotKind
from twinkle_tune.tune.gain import figures, gained, least
from twinkle_tune.workload import Named

_TAKEN_BACK = "taken back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A contest and where its calls came from: paths and names of the slots that were running around them."""

    contest: Contest
    inside: tuple[str, ...]


def choose_nested(placed: Sequence[Placed], aim: Aim = BY_TIME) -> tuple[Contest, ...]:
    """Of a slot and the slots inside it, keep the winners of the better total, never of both.

    A winner was measured with the originals inside and around it, so two nested winners together were never
    measured. What the inner winners save in a step is held against what the outer one saves. Time adds up; peaks of
    memory of one call after the other do not, so there it is the inner winner that saves most.
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
        if outer.contest.slot.kind is SlotKind.PATTERN:
            contests[outer_index] = _or_the_parts(contests[outer_index], [contests[index] for index in inner])
            continue
        outer_saves = saved([contests[outer_index]], aim)
        if outer_saves >= saved([contests[index] for index in inner], aim):
            for index in inner:
                contests[index] = keep_original(
                    contests[index], f"it runs inside {outer.contest.slot.name}, whose winner saves more"
                )
        else:
            names = ", ".join(dict.fromkeys(contests[index].slot.name for index in inner))
            contests[outer_index] = keep_original(contests[outer_index], f"the winners inside it ({names}) save more")
    return tuple(contests)


def _or_the_parts(piece: Contest, inner: Sequence[Contest]) -> Contest:
    """A piece's winner, if it saves more in a call than the winners of the layers in it.

    In its place these do not run; elsewhere they do, so both stay: which one runs where was measured.
    """
    inside_us = sum(per_call_us(contest) * _holds(piece, contest) for contest in inner)
    if per_call_us(piece) >= inside_us:
        return piece
    names = ", ".join(dict.fromkeys(contest.slot.name for contest in inner))
    return keep_original(piece, f"the winners inside it ({names}) save more")


def _holds(piece: Contest, inner: Contest) -> int:
    """How many of a piece's children are another contest's layers; at least one.

    They are of its class, and lie where the piece does: of two norms in a piece each may be another contest's.
    """
    host = piece.instances[0].rpartition(":")[0] if piece.instances else ""
    near = sum(path.startswith(f"{host}.") for path in inner.instances)
    target = inner.slot.target.replace(":", ".")
    children = [node for name, node in piece.workload.settings if name.endswith(".class") and name.count(".") == 1]
    alike = sum(isinstance(node, Named) and node.name == target for node in children)
    return max(1, min(alike, near or alike))


def per_call_us(contest: Contest) -> float:
    """Microseconds that the winner saves in one call; 0 where that is not known."""
    original = contest.trial(ORIGINAL).outcome
    if not isinstance(original, Measurement):
        return 0.0
    return (1 - contest.selection.ratio) * median(original.times_us)


def saved(contests: Sequence[Contest], aim: Aim) -> float:
    """What winners save together: microseconds of all their calls, or bytes of the one that saves most."""
    if aim.is_memory:
        return max((saved_bytes(contest) for contest in contests), default=0)
    return sum(saved_us(contest) for contest in contests)


def saved_bytes(contest: Contest) -> int:
    """Bytes of peak memory that the winner saves in a call; 0 where that is not known."""
    peaks = [
        trial.outcome.peak_bytes or 0
        for name in (ORIGINAL, contest.selection.winner)
        if isinstance((trial := contest.trial(name)).outcome, Measurement)
    ]
    return peaks[0] - peaks[1] if len(peaks) == 2 else 0


def saved_us(contest: Contest) -> float:
    """Microseconds that the winner saves, over all steps in which the contest's calls were seen.

    Times of a block count as often as the block is called, not the slot, which it may call more than once.
    """
    original, winner = (contest.trial(name).outcome for name in (ORIGINAL, contest.selection.winner))
    if not (isinstance(original, Measurement) and isinstance(winner, Measurement)):
        return 0.0
    timed = sum(seen.calls for seen in contest.seen) / (1 if contest.timed_on is None else contest.timed_on.calls)
    return (1 - contest.selection.ratio) * median(original.times_us) * timed


def keep_original(contest: Contest, why: str, status: Status = "kept") -> Contest:
    """The contest with the original in the winner's place, and the reason."""
    lost, memory = contest.selection, contest.selection.memory_ratio
    less = "" if memory is None or memory >= 1 else f" and {memory:.2f} of its peak memory"
    reason = f"{why}; by itself {lost.winner} took {lost.ratio:.2f} of the original's time{less}"
    return replace(contest, selection=Selection(winner=ORIGINAL, rounds=lost.rounds, reason=reason, status=status))


def slots_with_winners(contests: Sequence[Contest], step: str) -> tuple[str, ...]:
    """Names of the slots whose winners run in a step, in the order of the contests."""
    return tuple(dict.fromkeys(c.slot.name for c in contests if _won(c) and _runs_in(c, step)))


def running_in(contests: Sequence[Contest], step: str) -> frozenset[tuple[str, str, tuple[str, ...], str]]:
    """The winners that run in a step: slot, key of the workload, instances and winner of each."""
    return frozenset(
        (c.slot.name, c.workload.key, c.instances, c.selection.winner)
        for c in contests
        if _won(c) and _runs_in(c, step)
    )


def only_winners_of(contests: Sequence[Contest], slot: str, step: str) -> tuple[Contest, ...]:
    """The contests with no winners left but those of one slot in one step."""
    return tuple(
        c
        if not _won(c) or (c.slot.name == slot and _runs_in(c, step))
        else keep_original(c, "left out to measure another")
        for c in contests
    )


def culprits(alone: Mapping[str, StepResult], aim: Aim = BY_TIME) -> dict[str, StepResult]:
    """Which slots' winners to take back from a step that gained nothing with all of them.

    Args:
        alone: the step with the winners of one slot alone, by slot.
        aim: what it should have gained.

    Returns:
        Those with which the step gained nothing; where it gained with each alone, the one that did least.
    """
    slow = {slot: result for slot, result in alone.items() if not gained(result, aim)}
    if slow or not alone:
        return slow
    worst = max(alone, key=lambda slot: least(alone[slot], aim))
    return {worst: alone[worst]}


def take_back(
    contests: Sequence[Contest], step: str, slow: Mapping[str, StepResult], aim: Aim = BY_TIME
) -> tuple[Contest, ...]:
    """The originals back for some slots' winners in a step, with the figures of the step as the reason.

    In doubt the original: what was measured faster by itself, call after call, may cost more than it saves
    between the other operations of a model.
    """
    return tuple(
        keep_original(
            c, f"{_TAKEN_BACK}: with it the whole step {step!r} {figures(slow[c.slot.name], aim)}", "taken back"
        )
        if _won(c) and _runs_in(c, step) and c.slot.name in slow
        else c
        for c in contests
    )


def costly(contests: Sequence[Contest]) -> tuple[str, ...]:
    """Slots with winners that take more time than their originals, those that take most first."""
    worst: dict[str, float] = {}
    for contest in contests:
        if _won(contest) and contest.selection.ratio > 1 and contest.seen:
            worst[contest.slot.name] = max(contest.selection.ratio, worst.get(contest.slot.name, 1.0))
    return tuple(sorted(worst, key=lambda slot: -worst[slot]))


def take_back_idle(contests: Sequence[Contest], slot: str) -> tuple[Contest, ...]:
    """The originals back for a slot's winners, without which no step needs more memory."""
    return tuple(
        keep_original(c, f"{_TAKEN_BACK}: without it no step of the whole model needs more memory", "taken back")
        if _won(c) and c.slot.name == slot
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
        keep_original(c, f"{_TAKEN_BACK}: with it in step {step!r} {wrong[c.slot.name]}", "taken back")
        if _won(c) and (c.slot.name, c.selection.winner) in out
        else c
        for c in contests
    )


def _runs_in(contest: Contest, step: str) -> bool:
    return any(seen.step == step for seen in contest.seen)


def _won(contest: Contest) -> bool:
    return contest.selection.winner != ORIGINAL


def _is_inside(inner: Placed, outer: Contest) -> bool:
    places = set(outer.instances) or {outer.slot.name}
    shares_step = {seen.step for seen in inner.contest.seen} & {seen.step for seen in outer.seen}
    return bool(places & set(inner.inside)) and bool(shares_step)
