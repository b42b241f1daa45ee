"""A race in which nobody leaves: for the few whose ratio is wanted whoever wins."""

from __future__ import annotations

import math
from collections.abc import Mapping

from twinkle_tune.measure.race import Race
from twinkle_tune.measure.smallest import FEWEST_ROUNDS
from twinkle_tune.measure.statistics import paired_ratio, sign_e_value
from twinkle_tune.slot import ORIGINAL

_FIRST_CLEAR = 12
_FASTER, _SLOWER = 100, 20
"""E-values at which the one challenger is known for faster, or slower: to run the original in vain costs but speed."""
_ALIKE = 0.005
"""Within this of each other two are alike; of a gain an interval of half of it is near enough, or of twice this."""


class FullRace(Race):
    """A :class:`Race` that nobody leaves and that ends when its rounds or its time are over, which is no stop.

    With one challenger alone it ends, too, as soon as its ratio is told: it is slower; or faster, by how much is known
    to a half; or within half a percent of the original. Between several the last round may tell who is the fastest.
    Who wins is decided as in any race.
    """

    fewest = FEWEST_ROUNDS

    def stop(self, why: str) -> None:
        """As :meth:`Race.stop`."""
        if not self.finished:
            self._end()

    def _look(self, times_us: Mapping[str, float]) -> None:
        for name in self._alive:
            self._logs[name].append(math.log(times_us[name] / times_us[ORIGINAL]))
        self._accept()

    def _settle(self) -> None:
        if not self.finished and (not self._alive or self.rounds >= self.settings.max_rounds or self._is_told()):
            self._end()

    def _is_told(self) -> bool:
        if len(self._entered) != 1 or self.rounds < _FIRST_CLEAR:
            return False
        (name,) = self._entered
        logs = self._logs[name]
        if sign_e_value(sum(log > 0 for log in logs), self.rounds) >= _SLOWER:
            return True
        figure = paired_ratio(self._times_us[name], self._times_us[ORIGINAL])
        if sign_e_value(sum(log < 0 for log in logs), self.rounds) >= _FASTER:
            return figure.high < 1 and figure.high - figure.low <= max(2 * _ALIKE, (1 - figure.ratio) / 2)
        return figure.low >= 1 - _ALIKE and figure.high <= 1 + _ALIKE

    def _end(self) -> None:
        self._drop_futile()
        winner = self._best_accepted()
        why = f"no clear winner after {self.rounds} rounds" if self._alive else self._why_none()
        self._finish(winner, "" if winner else why, unclear=winner is None and bool(self._alive))
