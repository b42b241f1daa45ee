"""Rounds for winners by memory: a fixed number, and nobody leaves for being slow.

A pure state machine with the ways of :class:`~twinkle_tune.measure.race.Race`. Peaks are known before the first
round, so those that are not clearly smaller than the original are timed in three rounds, for the report alone. The
others get 15: enough for an interval of their time over the original's that four rounds at either end may lie outside.
Rounds pair, and their order is random, as in the race.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from twinkle_tune.measure.paired import Decision, PairedRounds
from twinkle_tune.measure.settings import RaceSettings
from twinkle_tune.measure.smallest import is_smaller, smallest
from twinkle_tune.objective import Aim
from twinkle_tune.slot import ORIGINAL

ROUNDS = 15
FEW_ROUNDS = 3
"""Of candidates that cannot win by memory."""


class Rounds(PairedRounds):
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
        super().__init__([name for name in peaks if name != ORIGINAL], settings.warmup_rounds, seed)
        self._peaks, self._aim = dict(peaks), aim
        self._most_rounds = min(ROUNDS, settings.max_rounds)
        self._settle()

    @property
    def leader(self) -> tuple[str, float]:
        """The smallest so far, the original where none is clearly smaller; and its median ratio of times."""
        fit = [name for name in self._alive if is_smaller(self._peaks[name], self._peaks[ORIGINAL])]
        best = min(fit, key=lambda name: self._peaks[name] or 0, default=ORIGINAL)
        if best == ORIGINAL or self.rounds == 0:
            return best, 1.0
        return best, median(a / b for a, b in zip(self._times_us[best], self._times_us[ORIGINAL], strict=True))

    def stop(self, why: str) -> None:
        """End it now, unless it is over; ``why`` is what ended it."""
        if not self.finished:
            self._finish(why, stopped=True)

    def _look(self, times_us: Mapping[str, float]) -> None:
        if self.rounds >= FEW_ROUNDS:
            self._alive = [name for name in self._alive if is_smaller(self._peaks[name], self._peaks[ORIGINAL])]

    def _settle(self) -> None:
        if self.finished:
            return
        if not self._alive or self.rounds >= self._most_rounds:
            self._finish("")

    def _finish(self, why: str, *, stopped: bool = False) -> None:
        peaks = {name: peak for name, peak in self._peaks.items() if name not in self._failed}
        found = smallest(peaks, self._times_us, self._aim)
        if self._failed and len(peaks) == 1:
            found = replace(found, reason="no candidate could be timed")
        left = {**found.left, **self._left}
        entered = [name for name in self._peaks if name not in (ORIGINAL, found.winner)]
        self._decision = Decision(
            winner=found.winner,
            reason=f"{found.reason}; {why}" if why else found.reason,
            left=tuple((name, left[name]) for name in entered),
            rounds=self.rounds,
            failed=tuple(self._failed),
            causes=tuple(self._failed.values()),
            stopped=stopped,
        )
