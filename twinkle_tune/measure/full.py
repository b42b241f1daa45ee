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
"""E-values at which one is known for faster than another, or slower: to run the original in vain costs but speed."""
_ALIKE = 0.005
"""Within this of each other two are alike; of a gain an interval of a part of it is near enough, or of twice this."""


class FullRace(Race):
    """A :class:`Race` that nobody leaves and that ends when its rounds or its time are over, which is no stop.

    It ends, too, as soon as each challenger's ratio is told: it is slower; or faster, by how much is known to a half
    (among several, which are shown side by side, to a quarter); or within half a percent of the original. Of several
    that are faster the fastest must be told from each other in the same way, and have won, or gain clearly less than is
    asked for. Who wins is decided as in any race.
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
        if self.rounds < _FIRST_CLEAR or not all(self._is_known(name, ORIGINAL) for name in self._alive):
            return False
        best = min(self._alive, key=self._median)
        # Who may gain what is asked for must have proven it, as at the end of any race.
        least = 1 - self.settings.min_gain
        if not self._accepted(best) and paired_ratio(self._times_us[best], self._times_us[ORIGINAL]).low <= least:
            return False
        # Of who is no faster than the original nobody asks who is the fastest.
        return all(self._is_known(best, name) for name in self._alive if name != best and self._median(name) < 0)

    def _is_known(self, one: str, other: str) -> bool:
        """Whether the ratio of the times of two is told."""
        mine, its = self._times_us[one], self._times_us[other]
        if sign_e_value(sum(a > b for a, b in zip(mine, its, strict=True)), self.rounds) >= _SLOWER:
            return True
        figure = paired_ratio(mine, its)
        if sign_e_value(sum(a < b for a, b in zip(mine, its, strict=True)), self.rounds) >= _FASTER:
            parts = 2 if len(self._entered) == 1 else 4
            return figure.high < 1 and figure.high - figure.low <= max(2 * _ALIKE, (1 - figure.ratio) / parts)
        return figure.low >= 1 - _ALIKE and figure.high <= 1 + _ALIKE

    def _end(self) -> None:
        self._drop_futile()
        winner = self._best_accepted()
        why = f"no clear winner after {self.rounds} rounds" if self._alive else self._why_none()
        self._finish(winner, "" if winner else why, unclear=winner is None and bool(self._alive))
