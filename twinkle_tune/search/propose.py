"""Which config to try next: a pure function of what was tried before.

First some at random. Then children: values of two of the fastest mixed, some of them changed. In the last fifth of the
budget steps: a neighbour, one step away in one parameter, of the fastest config that has one untried. How it compares
with TPE, replayed on recorded and on made-up landscapes: docs/how-we-search.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from twinkle_tune.ops.space import Config, Space
from twinkle_tune.search.record import Tried

_AT_RANDOM = 10
"""Timings before the first child."""
_STEPS_FROM = 0.8
"""Share of the budget after which only steps are proposed while there are any."""
_PARENTS = 8
_MIXED = 0.6
"""Share of children with two parents; the others have one."""
_CHANGED = 1.2
"""Parameters of a child that change, on average."""
_FAR = 0.3
"""Share of changes to any value; the others are to the next one."""
_ATTEMPTS = 200


def propose(
    space: Space, pool: Sequence[Config], tried: Sequence[Tried], budget: int, seed: int
) -> tuple[Config, str] | None:
    """An untried config and how it was found ("random", "step", "child"); None if there is none left.

    Args:
        space: of the configs.
        pool: every config of the space.
        tried: in order. Equal ones give equal proposals: a search that was killed goes on as if it had not been.
        budget: timings that there will be.
        seed: of what is drawn.
    """
    seen = {_key(space, each.config) for each in tried}
    if all(_key(space, config) in seen for config in pool):
        return None
    draw = random.Random(f"{seed}/{len(tried)}")
    fast = fastest(tried)
    if len(fast) >= _AT_RANDOM:
        ways = [_step, _child] if len(fast) >= _STEPS_FROM * budget else [_child, _step]
        for way in ways:
            found = way(space, fast, seen, draw)
            if found is not None:
                return found, way.__name__.strip("_")
    return _random(space, pool, seen, draw), "random"


def ahead(
    space: Space, pool: Sequence[Config], tried: Sequence[Tried], budget: int, seed: int, count: int
) -> Iterator[Config]:
    """The next proposals if none of them brings anything: to be compiled while another config is timed."""
    pretended = list(tried)
    for _ in range(count):
        found = propose(space, pool, pretended, budget, seed)
        if found is None:
            return
        pretended.append(Tried(config=found[0], how=found[1]))
        yield found[0]


def fastest(tried: Sequence[Tried]) -> list[Tried]:
    """Those that ran, the fastest first."""
    ran = [(each.time_us, index, each) for index, each in enumerate(tried) if each.time_us is not None]
    return [each for _, _, each in sorted(ran)]


def _random(space: Space, pool: Sequence[Config], seen: set[tuple[int, ...]], draw: random.Random) -> Config:
    for _ in range(_ATTEMPTS):
        config = draw.choice(pool)
        if _key(space, config) not in seen:
            return config
    return draw.choice([config for config in pool if _key(space, config) not in seen])


def _step(space: Space, fast: Sequence[Tried], seen: set[tuple[int, ...]], draw: random.Random) -> Config | None:
    for each in fast:
        near = [config for config in space.neighbours(each.config) if _key(space, config) not in seen]
        if near:
            return draw.choice(near)
    return None


def _child(space: Space, fast: Sequence[Tried], seen: set[tuple[int, ...]], draw: random.Random) -> Config | None:
    parents = [each.config for each in fast[:_PARENTS]]
    for _ in range(_ATTEMPTS):
        first = parents[min(len(parents) - 1, int(abs(draw.gauss(0, 3))))]
        second = draw.choice(parents) if draw.random() < _MIXED else first
        child = {name: (first if draw.random() < 0.5 else second)[name] for name in first}
        changed = _with_changes(space, child, draw)
        if not space.unfit(changed) and _key(space, changed) not in seen:
            return changed
    return None


def _with_changes(space: Space, config: Mapping[str, int], draw: random.Random) -> dict[str, int]:
    changed = dict(config)
    for parameter in space.parameters:
        if draw.random() < _CHANGED / len(space.parameters):
            values = parameter.values
            at = values.index(config[parameter.name]) + draw.choice((-1, 1))
            near = values[min(len(values) - 1, max(0, at))]
            changed[parameter.name] = draw.choice(values) if draw.random() < _FAR else near
    return changed


def _key(space: Space, config: Config) -> tuple[int, ...]:
    return tuple(space.in_order(config))
