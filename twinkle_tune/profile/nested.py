"""Which slots of a step lie inside which others, as far as their paths tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import OF_THE_MODEL


def lies_in(path: str, place: str) -> bool:
    """Whether a module lies inside another one, by their paths."""
    return path != place and (not place or path.startswith(f"{place}."))


def part_inside(contest: Contest, others: Iterable[Contest]) -> float:
    """The part of a contest's instances that lie inside an instance of another contest, 0 to 1; 0 for a function."""
    outer = {path for other in others if other is not contest for path in other.instances}
    inside = sum(any(lies_in(path, place) for place in outer) for path in contest.instances)
    return inside / len(contest.instances) if contest.instances else 0.0


def called_in(contests: Iterable[Contest], step: str) -> list[Contest]:
    """The contests that a step calls, without the slots that are the whole model."""
    return [c for c in contests if c.slot.name not in OF_THE_MODEL and any(seen.step == step for seen in c.seen)]
