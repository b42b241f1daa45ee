"""Rounds for winners by memory: a fixed number, and nobody leaves for being slow.

A pure state machine with the ways of :class:`~twinkle_tune.measure.race.Race`. Peaks are known before the first
round, so those that are not clearly smaller than the original are timed in three rounds, for the report alone. The
others get 15: enough for an interval of their time over the original's that four rounds at either end may lie outside.
Rounds pair, and their order is random, as in the race.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from twinkle_tune.measure.race import Decision
from twinkle_tune.measure.settings import RaceSettings
from twinkle_tune.measure.smallest import is_smaller, smallest
from twinkle_tune.measure.statistics import require_time
from twinkle_tune.objective import Aim
from twinkle_tune.slot import ORIGINAL

ROUNDS = 15
FEW_ROUNDS = 3
"""Of candidates that cannot win by memory."""


class Rounds:
    """The original and the candidates, with their peaks, timed in a fixed number of rounds."""

    def __init__(
        self, peaks: Mapping[str, int | None], aim: Aim, settings: RaceSettings | None = None, *, seed: int = 0
    ) -> None:
        """Line up.

        Args:
            peaks: bytes of one call by name, "original" among them; None where unknown.
            aim: by memory or balanced.
            settings: whose warm-up rounds and greatest number of rounds hold here, too.
            seed: of the random order within the rounds.

        Raises:
            ValueError: there is no "original".
        """
        if ORIGINAL not in peaks:
            raise ValueError(f"peaks: got {sorted(peaks)}, expected {ORIGINAL!r} among them; add the slot's own call")
        settings = settings if settings is not None else RaceSettings()
        self._peaks, self._aim = dict(peaks), aim
        self._most_rounds = min(ROUNDS, settings.max_rounds)
        self._warmups_to_go = settings.warmup_rounds
        self._alive = [name for name in peaks if name != ORIGINAL]
        self._failed: dict[str, str] = {}
        self._times_us: dict[str, list[float]] = {name: [] for name in peaks}
        self._order: tuple[str, ...] = ()
        self._random = random.Random(seed)
        self._decision: Decision | None = None
        self._settle()

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
        """The candidates that are still timed."""
        return tuple(self._alive)

    @property
    def times_us(self) -> Mapping[str, tuple[float, ...]]:
        """Microseconds of the counted rounds by name; from the first round on, so they pair by position."""
        return {name: tuple(times) for name, times in self._times_us.items()}

    @property
    def leader(self) -> tuple[str, float]:
        """The smallest so far, the original where none is clearly smaller; and its median ratio of times."""
        fit = [name for name in self._alive if is_smaller(self._peaks[name], self._peaks[ORIGINAL])]
        best = min(fit, key=lambda name: self._peaks[name] or 0, default=ORIGINAL)
        if best == ORIGINAL or self.rounds == 0:
            return best, 1.0
        return best, median(a / b for a, b in zip(self._times_us[best], self._times_us[ORIGINAL], strict=True))

    def next_order(self) -> tuple[str, ...]:
        """Who is to be timed in the next round: the original and all that are alive, in fresh random order.

        Raises:
            RuntimeError: it is over.
        """
        if self.finished:
            raise RuntimeError("next_order: the rounds are over; read Rounds.decision")
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
            raise ValueError(f"feed: got times of {sorted(times_us)}, expected those of {sorted(self._order)}, once")
        for name, time_us in times_us.items():
            require_time(time_us, f"feed: {name!r}")
        self._order = ()
        if self._warmups_to_go > 0:
            self._warmups_to_go -= 1
            return
        for name, time_us in times_us.items():
            self._times_us[name].append(time_us)
        self._settle()

    def withdraw(self, name: str, reason: str) -> None:
        """Take a candidate out that cannot be timed any more; within a round, also out of what to feed.

        Raises:
            ValueError: the name is not that of a candidate that is still timed.
        """
        if name not in self._alive:
            raise ValueError(f"withdraw: got {name!r}, expected one that is still timed: {self._alive}")
        self._order = tuple(other for other in self._order if other != name)
        self._alive.remove(name)
        self._failed[name] = reason
        self._settle()

    def stop(self, why: str) -> None:
        """End it now, unless it is over; ``why`` is what ended it."""
        if not self.finished:
            self._finish(why)

    def _settle(self) -> None:
        if self.finished:
            return
        if self.rounds >= FEW_ROUNDS:
            self._alive = [name for name in self._alive if is_smaller(self._peaks[name], self._peaks[ORIGINAL])]
        if not self._alive or self.rounds >= self._most_rounds:
            self._finish("")

    def _finish(self, why: str) -> None:
        peaks = {name: peak for name, peak in self._peaks.items() if name not in self._failed}
        found = smallest(peaks, self._times_us, self._aim)
        if self._failed and len(peaks) == 1:
            found = replace(found, reason="no candidate could be timed")
        left = {**found.left, **self._failed}
        entered = [name for name in self._peaks if name not in (ORIGINAL, found.winner)]
        self._decision = Decision(
            winner=found.winner,
            reason=f"{found.reason}; {why}" if why else found.reason,
            left=tuple((name, left[name]) for name in entered),
            rounds=self.rounds,
            failed=tuple(self._failed),
        )
