"""A contest of several processes: what one rejects all reject, and what is timed is averaged over them.

Of a process alone everything here is what it met itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean

from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.outcome import Rejection, Untimed
from twinkle_tune.parity.verdict import Inconclusive, Reject, Verdict
from twinkle_tune.peers import each_of, parts, peers


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """A candidate is right and can be timed; with its peak memory, if that is known."""

    peak_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A candidate failed by chance, and has its turn once more."""


Turn = Right | Again | Rejection | Untimed


def agreed_turn(name: str, find: Callable[[], Turn]) -> Turn:
    """What comes of a candidate's turn: a rejection if there is one, and the largest of all peaks."""
    found = parts(f"the turn of {name}", find)
    for each in found:
        if isinstance(each, (Rejection, Untimed)):
            return each
    if any(isinstance(each, Again) for each in found):
        return Again()
    peaks = [each.peak_bytes for each in found if isinstance(each, Right) and each.peak_bytes is not None]
    return Right(peak_bytes=max(peaks) if len(peaks) == len(found) else None)


def agreed_rejection(name: str, mine: Rejection | None) -> Rejection | None:
    """What one has against a candidate after its turn."""
    return next((each for each in each_of(f"after the turn of {name}", mine) if each is not None), None)


def named(rejection: Rejection) -> Rejection:
    """A rejection that says on which rank, where there are several."""
    those = peers()
    return rejection if those is None else replace(rejection, reason=f"rank {those.rank}: {rejection.reason}")


def agreed_judge(name: str, judge: Callable[[], Verdict]) -> Callable[[], Verdict]:
    """A judge that passes what all pass."""

    def judged() -> Verdict:
        verdicts = parts(f"judging {name} again", judge)
        return next((each for each in verdicts if isinstance(each, (Reject, Inconclusive))), verdicts[0])

    return judged if peers() is not None else judge


class AgreedClock:
    """A clock whose times are averaged over all processes; what raises in one of them raises in all."""

    def __init__(self, clock: Clock) -> None:
        """Of a clock, outermost: what stands around it may raise, too."""
        self._clock = clock
        self.name = clock.name

    def block_calls(self, call: Call) -> int:
        """As :meth:`Clock.block_calls`: the most that one needs."""
        return max(parts("sizing a block", lambda: self._clock.block_calls(call)))

    def burst_us(self, call: Call, block_calls: int) -> float:
        """As :meth:`Clock.burst_us`: the mean."""
        return fmean(parts("timing", lambda: self._clock.burst_us(call, block_calls)))

    def first_call_us(self, call: Call) -> float:
        """As :meth:`Clock.first_call_us`: the mean."""
        return fmean(parts("a first call", lambda: self._clock.first_call_us(call)))

    def peak_bytes(self, call: Call) -> int | None:
        """As :meth:`Clock.peak_bytes`, of this process."""
        return self._clock.peak_bytes(call)

    def synchronize(self) -> None:
        """As :meth:`Clock.synchronize`."""
        self._clock.synchronize()


def agreed_clock(clock: Clock) -> Clock:
    """The clock that all times of a contest are of."""
    return clock if peers() is None else AgreedClock(clock)
