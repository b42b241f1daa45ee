"""Rounds in which the original and its challengers are timed one after the other: what all ways of deciding share."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twinkle_tune.cause import Cause
from twinkle_tune.measure.statistics import require_time
from twinkle_tune.slot import ORIGINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How it ended.

    Attributes:
        winner: a challenger's name, or "original".
        reason: why it won, or why the original stayed.
        left: for every challenger but the winner, in the order in which they entered: its name, and why it
            left.
        rounds: counted rounds.
        failed: those of ``left`` that could not be timed any more: their times are no basis for anything.
        causes: what was the matter with each of ``failed``, by position.
        stopped: whether the time ended it, and not the evidence or the number of rounds.
        unclear: whether the rounds were used up while a challenger might still have been better.
    """

    winner: str
    reason: str
    left: tuple[tuple[str, str], ...]
    rounds: int
    failed: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    stopped: bool = False
    unclear: bool = False


class PairedRounds(ABC):
    """A pure state machine that is fed times.

    Ask :meth:`next_order` who is to be timed and in which order, time them, :meth:`feed` the times; repeat until
    :attr:`finished`.
    """

    fewest = 0
    """So many rounds are held whatever time they take."""

    def __init__(self, challengers: Sequence[str], warmup_rounds: int, seed: int) -> None:
        """Line up; a subclass settles at once whether there is anybody to time."""
        if ORIGINAL in challengers or len(set(challengers)) != len(challengers):
            raise ValueError(
                f"challengers: got {list(challengers)}, expected each name once and not {ORIGINAL!r}, "
                "which always takes part"
            )
        self._entered = tuple(challengers)
        self._alive = list(challengers)
        self._left: dict[str, str] = {}
        self._failed: dict[str, Cause] = {}
        self._times_us: dict[str, list[float]] = {name: [] for name in (ORIGINAL, *challengers)}
        self._order: tuple[str, ...] = ()
        self._warmups_to_go = warmup_rounds
        self._random = random.Random(seed)
        self._decision: Decision | None = None

    @property
    def finished(self) -> bool:
        """Whether there is a decision."""
        return self._decision is not None

    @property
    def decision(self) -> Decision | None:
        """How it ended; None while it goes on."""
        return self._decision

    @property
    def rounds(self) -> int:
        """Counted rounds so far, without the warm-up."""
        return len(self._times_us[ORIGINAL])

    @property
    def alive(self) -> tuple[str, ...]:
        """The challengers that are still timed."""
        return tuple(self._alive)

    @property
    def times_us(self) -> Mapping[str, tuple[float, ...]]:
        """Microseconds of the counted rounds by name; from the first round on, so they pair by position."""
        return {name: tuple(times) for name, times in self._times_us.items()}

    @property
    @abstractmethod
    def leader(self) -> tuple[str, float]:
        """The winner, or the best so far; and its median ratio of times."""

    @abstractmethod
    def stop(self, why: str) -> None:
        """End it now, unless it is over; ``why`` is what ended it ("out of time budget after 12 rounds")."""

    def next_order(self) -> tuple[str, ...]:
        """Who is to be timed in the next round: the original and all that are alive, in fresh random order.

        The order must be random: between equals each one is then as likely as the other to come out ahead in
        a round, whatever the machine does meanwhile.

        Raises:
            RuntimeError: it is over.
        """
        if self.finished:
            raise RuntimeError(f"next_order: the race is over; read {type(self).__name__}.decision")
        order = [ORIGINAL, *self._alive]
        self._random.shuffle(order)
        self._order = tuple(order)
        return self._order

    def feed(self, times_us: Mapping[str, float]) -> None:
        """Take the times of one round, in microseconds a call, for exactly the names of the last order.

        Raises:
            ValueError: other names, or a time that is not a positive number; nothing is changed.
        """
        if not self._order or set(times_us) != set(self._order):
            expected = f"those of {sorted(self._order)}" if self._order else "a call of next_order first"
            raise ValueError(
                f"feed: got times of {sorted(times_us)}, expected {expected}; time one order, feed it once"
            )
        for name, time_us in times_us.items():
            require_time(time_us, f"feed: {name!r}")
        self._order = ()
        if self._warmups_to_go > 0:
            self._warmups_to_go -= 1
            return
        for name, time_us in times_us.items():
            self._times_us[name].append(time_us)
        self._look(times_us)
        self._settle()

    def withdraw(self, name: str, reason: str, cause: Cause = "raised") -> None:
        """Take a challenger out that cannot be timed any more; within a round, also out of what to feed.

        Raises:
            ValueError: the name is not that of a challenger still alive.
        """
        if name not in self._alive:
            raise ValueError(f"withdraw: got {name!r}, expected one that is alive: {self._alive}")
        self._order = tuple(other for other in self._order if other != name)
        self._drop(name, reason)
        self._failed[name] = cause
        self._settle()

    @abstractmethod
    def _look(self, times_us: Mapping[str, float]) -> None:
        """See what a counted round tells of the challengers."""

    @abstractmethod
    def _settle(self) -> None:
        """Decide, if it is time."""

    def _drop(self, name: str, reason: str) -> None:
        self._alive.remove(name)
        self._left[name] = reason
