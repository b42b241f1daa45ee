"""Which slots of a step lie inside which others, as far as their paths tell. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import OF_THE_MODEL


def around(path: str) -> Iterator[str]:
    """The paths of the modules in which a module lies, by its own path, from within; the model itself is ""."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def parts_inside(contests: Sequence[Contest]) -> list[float]:
    """Of each contest the part of its instances that lie inside an instance of another, 0 to 1; 0 for a function."""
    known: set[str] = set().union(*(contest.instances for contest in contests))
    held_by = {path: [place for place in around(path) if place in known] for path in known}
    if not any(held_by.values()):
        return [0.0] * len(contests)
    own = [set(contest.instances) for contest in contests]
    named = Counter(path for paths in own for path in paths)
    return [
        sum(any(named[place] > (place in paths) for place in held_by[path]) for path in contest.instances)
        / max(len(contest.instances), 1)
        for contest, paths in zip(contests, own, strict=True)
    ]


def nested(contests: Sequence[Contest]) -> list[list[int]]:
    """For each contest the places in the sequence of those that all its instances lie inside of."""
    named: dict[str, list[int]] = {}
    for index, contest in enumerate(contests):
        for path in set(contest.instances):
            named.setdefault(path, []).append(index)
    found = []
    for index, contest in enumerate(contests):
        holders = [{one for place in around(path) for one in named.get(place, ())} for path in contest.instances]
        found.append(sorted(set.intersection(*holders) - {index}) if holders else [])
    return found


def called_in(contests: Iterable[Contest], step: str) -> list[Contest]:
    """The contests that a step calls, without the slots that are the whole model."""
    return [c for c in contests if c.slot.name not in OF_THE_MODEL and any(seen.step == step for seen in c.seen)]
