"""Further times of a contest's original and winner, taken after the race: figures for the report, which decide nothing.

With cold caches; captured in a CUDA graph; what the host needs to launch; forward and backward apart. Each gets a small
share of the time that its contest has taken, and what goes wrong in one is a note: nobody loses a contest by it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TypeVar

from twinkle_tune.contest.watch import MeddledError, Watch
from twinkle_tune.device import parse_device, torch_type
from twinkle_tune.errors import in_a_line
from twinkle_tune.measure.clock import Call, Clock, CudaClock
from twinkle_tune.measure.clocks import slot_clock
from twinkle_tune.measure.cold import cold_clock
from twinkle_tune.measure.passes import Passes, time_passes
from twinkle_tune.outcome import Timings
from twinkle_tune.peers import now_s, parts

ROUNDS = 9
"""Paired rounds of a figure: enough for an interval that one disturbed round does not widen."""
_SHARE, _LEAST_S = 0.02, 0.1
"""Of the time that the contest took so far, what each figure may take; so many seconds in any case."""
_BLOCK_US = 2_000.0
_MOST_CALLS = {"cpu": 5, "cuda": 50}
_PASSES = 5
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Whose further times are taken.

    Attributes:
        step: the call that the race timed.
        hot_us: its median time there.
        forward: the forward alone, with gradients recorded; None where there is no backward.
    """

    step: Call
    hot_us: float
    forward: Call | None = None


def further_times(
    timed: Mapping[str, Timed],
    device: str,
    clock: Clock,
    watch: Watch,
    *,
    began_s: float,
    ends_s: float = math.inf,
    seed: int = 0,
) -> tuple[Timings, ...]:
    """The further times of some candidates; none where the contest's time is over.

    Args:
        timed: by name, in the order of the result.
        device: a device name; what has no meaning there is left out.
        clock: that the race was timed with.
        watch: told whose calls are made.
        began_s: when the contest began, by the monotonic clock.
        ends_s: when its time is over.
        seed: of the order within the rounds.
    """
    if not timed or now_s() >= ends_s:
        return ()
    kind = torch_type(parse_device(device))
    taker = _Taker(
        timed=timed,
        watch=watch,
        began_s=began_s,
        ends_s=ends_s,
        chance=random.Random(seed),
        most_calls=_MOST_CALLS[kind],
    )
    passes = taker.passes(clock)
    host_us = taker.host_us(clock)
    graph_us = taker.rounds("CUDA graph", partial(slot_clock, device, graphs=True)) if kind == "cuda" else {}
    cold_us = taker.rounds("cold caches", partial(_cold_clock, device), single=True)
    return tuple(
        Timings(
            candidate=name,
            cold_us=cold_us.get(name, ()),
            graph_us=graph_us.get(name, ()),
            host_us=host_us.get(name),
            forward_us=round(passes[name].forward_us, 4) if name in passes else None,
            backward_us=round(passes[name].backward_us, 4) if name in passes else None,
            notes=tuple(taker.notes[name]),
        )
        for name in timed
    )


@dataclass(slots=True, kw_only=True)
class _Taker:
    timed: Mapping[str, Timed]
    watch: Watch
    began_s: float
    ends_s: float
    chance: random.Random
    most_calls: int
    notes: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.notes = {name: [] for name in self.timed}

    def rounds(self, what: str, clock_of: Callable[[], Clock], *, single: bool = False) -> dict[str, tuple[float, ...]]:
        """Paired rounds on another clock, in random order; fewer where their time is over."""
        racing, left_s = list(self.timed), self._allowed_s()
        if not self._is_worth(what, racing, left_s):
            return {}
        clock = self._tried(what, racing[0], clock_of)
        if clock is None:
            return {}
        found: dict[str, list[float]] = {name: [] for name in racing}
        until_s = now_s() + left_s
        for done in range(ROUNDS):
            if done and now_s() >= until_s:
                break
            for name in self.chance.sample(racing, len(racing)):
                block_calls = 1 if single else self._block_calls(name)
                time_us = self._tried(what, name, partial(clock.burst_us, self.timed[name].step, block_calls))
                if time_us is None:
                    racing.remove(name)
                else:
                    found[name].append(round(time_us, 4))
        return {name: tuple(found[name]) for name in racing}

    def host_us(self, clock: Clock) -> dict[str, float]:
        """What the host needs to launch a call; nothing where no host launches anything."""
        found = {}
        for name, each in self.timed.items() if isinstance(clock, CudaClock) else ():
            assert isinstance(clock, CudaClock)
            host_us = self._tried("host", name, partial(clock.host_us, each.step, self._block_calls(name)))
            if host_us is not None:
                found[name] = round(host_us, 4)
        return found

    def passes(self, clock: Clock) -> dict[str, Passes]:
        """The forward, and what the backward adds; nothing where there is no backward."""
        found, what = {}, "forward and backward"
        both = {name: each.forward for name, each in self.timed.items() if each.forward is not None}
        left_s = self._allowed_s() / max(1, len(both))
        for name, forward in both.items():
            if not self._is_worth(what, [name], left_s):
                continue
            block_calls, step = self._block_calls(name), self.timed[name].step
            rounds = int(left_s * 1e6 / (2 * block_calls * self.timed[name].hot_us))
            rounds = max(1, min(_PASSES, rounds))
            call = partial(time_passes, forward, step, clock, rounds=rounds, block_calls=block_calls)
            passes = self._tried(what, name, call)
            if passes is not None:
                found[name] = passes
        return found

    def _block_calls(self, name: str) -> int:
        return max(1, min(self.most_calls, int(_BLOCK_US / self.timed[name].hot_us)))

    def _allowed_s(self) -> float:
        now = now_s()
        return min(max(_LEAST_S, _SHARE * (now - self.began_s)), self.ends_s - now)

    def _is_worth(self, what: str, names: Sequence[str], left_s: float) -> bool:
        if sum(self.timed[name].hot_us for name in names) <= left_s * 1e6:
            return True
        for name in names:
            self.notes[name].append(f"{what}: left out, one round takes too long")
        return False

    def _tried(self, what: str, name: str, call: Callable[[], _Made]) -> _Made | None:
        """What a call gives, made in a candidate's name; None, and a note, where it raises."""

        def made() -> _Made:
            self.watch.begins(name, "timing")
            try:
                return call()
            finally:
                self.watch.ends(name)

        try:
            return parts(f"further times of {name}", made)[0]
        except Exception as error:
            # Anything can come out of a stranger's code, which was right and timed: this decides nothing any more.
            told = str(error) if isinstance(error, MeddledError) else in_a_line(error, 200)
            self.notes[name].append(f"{what}: {told}")
            return None


def _cold_clock(device: str) -> Clock:
    # On a CPU one for all contests: to fill its buffer for the first time takes longer than to use it.
    return _cold_cpu_clock() if parse_device(device) == "cpu" else cold_clock(device)


@cache
def _cold_cpu_clock() -> Clock:
    return cold_clock("cpu")
