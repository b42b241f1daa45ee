"""A race that goes over its whole distance: for the few whose ratio is wanted whoever wins."""

from __future__ import annotations

import math
from collections.abc import Mapping

from twinkle_tune.measure.race import Race
from twinkle_tune.measure.smallest import FEWEST_ROUNDS
from twinkle_tune.slot import ORIGINAL


class FullRace(Race):
    """A :class:`Race` that nobody leaves and that ends when its rounds or its time are over, which is no stop.

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
        if not self.finished and (not self._alive or self.rounds >= self.settings.max_rounds):
            self._end()

    def _end(self) -> None:
        self._drop_futile()
        winner = self._best_accepted()
        why = f"no clear winner after {self.rounds} rounds" if self._alive else self._why_none()
        self._finish(winner, "" if winner else why, unclear=winner is None and bool(self._alive))
