"""Run a race with real calls and a real clock: the edge around the pure state machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from twinkle_tune.cause import cause_of
from twinkle_tune.errors import in_a_line
from twinkle_tune.measure.chance import unless_by_chance
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.measure.paired import Decision, PairedRounds
from twinkle_tune.measure.race import Race, RaceSettings
from twinkle_tune.measure.state import StateWatch
from twinkle_tune.peers import each_of, now_s
from twinkle_tune.slot import ORIGINAL

_ALIKE = 3
"""Up to this factor between block sizes a challenger gets the original's: equals must be timed in the same way."""


Held = TypeVar("Held", bound=PairedRounds)


def run_race(
    calls: Mapping[str, Call],
    clock: Clock,
    settings: RaceSettings,
    *,
    seed: int = 0,
    on_round: Callable[[Race], None] | None = None,
    deadline_s: float | None = None,
    watch: StateWatch | None = None,
) -> tuple[Decision, Mapping[str, tuple[float, ...]]]:
    """Race the original against the others.

    Every call must use the same input buffers and have been made before (compilation is no part of a race). A
    challenger that raises while it is timed leaves with that reason.

    Args:
        calls: by name, "original" among them; each takes nothing and makes one call.
        clock: of the device on which the calls run.
        settings: when one wins and when one leaves.
        seed: of the order within the rounds.
        on_round: told after every round, warm-up rounds included.
        deadline_s: seconds that the race may take; a burst that has begun is finished. When they are over,
            the best accepted challenger wins, else the original stays. None for no limit.
        watch: looks at the device after every round; rounds in which the device was disturbed are timed again.

    Returns:
        The decision, and by name microseconds of a call in the counted rounds, pairing by position. Those
        who left have fewer; all are empty where there was no challenger, or no time.

    Raises:
        ValueError: there is no "original".
        Exception: whatever the original's call raises, and ClockFault where its time is none.
    """
    if ORIGINAL not in calls:
        raise ValueError(f"calls: got {sorted(calls)}, expected {ORIGINAL!r} among them; add the slot's own call")
    race = Race([name for name in calls if name != ORIGINAL], settings, seed=seed)
    return hold(race, calls, clock, on_round=on_round, deadline_s=deadline_s, watch=watch)


def hold(
    race: Held,
    calls: Mapping[str, Call],
    clock: Clock,
    *,
    on_round: Callable[[Held], None] | None = None,
    deadline_s: float | None = None,
    watch: StateWatch | None = None,
) -> tuple[Decision, Mapping[str, tuple[float, ...]]]:
    """Hold the rounds of a race that nobody was timed in yet; arguments and result as of :func:`run_race`."""
    ends_s = math.inf if deadline_s is None else now_s() + deadline_s
    block_calls: dict[str, int] = {}
    while not race.finished:
        until_s = ends_s if race.rounds >= race.fewest else math.inf
        times_us = _time_round(race, calls, block_calls, clock, until_s)
        if times_us is None:
            race.stop(f"out of time budget after {race.rounds} rounds")
        elif not race.finished and not any(each_of("disturbed", watch is not None and watch.repeats())):
            race.feed(times_us)
        if on_round is not None:
            on_round(race)
    assert race.decision is not None
    return race.decision, race.times_us


def _time_round(
    race: PairedRounds, calls: Mapping[str, Call], block_calls: dict[str, int], clock: Clock, ends_s: float
) -> dict[str, float] | None:
    # None when time is up. Challengers that raise are out of the race and of the round.
    times_us: dict[str, float] = {}
    for name in race.next_order():
        if now_s() >= ends_s:
            return None
        if ORIGINAL not in block_calls:
            block_calls[ORIGINAL] = clock.block_calls(calls[ORIGINAL])
        try:
            if name not in block_calls:
                own = unless_by_chance(partial(clock.block_calls, calls[name]))
                block_calls[name] = _size(own, block_calls[ORIGINAL])
            times_us[name] = unless_by_chance(partial(clock.burst_us, calls[name], block_calls[name]))
        except Exception as error:
            # Anything can come out of a stranger's code, and none of it may end the run.
            if name == ORIGINAL:
                raise
            race.withdraw(name, f"raised while it was timed: {in_a_line(error)}", cause_of(error))
    return times_us


def _size(own: int, originals: int) -> int:
    return originals if max(own, originals) <= _ALIKE * min(own, originals) else own
