"""Whose turn it is in a script's next step, by a race that is fed the script's own step times. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twinkle_tune.measure.paired import Decision
from twinkle_tune.measure.race import Race
from twinkle_tune.measure.settings import RaceSettings


class Turns:
    """The original and its rivals take turns, a step each, in rounds of random order.

    Ask :meth:`next` who runs in the step that begins, tell :meth:`took` how long it took; repeat until
    :attr:`decision` is there.
    """

    def __init__(self, rivals: Sequence[str], settings: RaceSettings | None = None, *, seed: int = 0) -> None:
        """Line up; with nobody to race the original has won.

        Args:
            rivals: their names, each once.
            settings: of the race; None for the defaults.
            seed: of the order within the rounds.
        """
        self._race = Race(rivals, settings, seed=seed)
        self._order: list[str] = []
        self._times_us: dict[str, float] = {}
        self._turn = ""

    @property
    def decision(self) -> Decision | None:
        """Who won, and why; None while it goes on."""
        return self._race.decision

    @property
    def turn(self) -> str:
        """Who runs in the step that goes on; "" before the first."""
        return self._turn

    @property
    def times_us(self) -> Mapping[str, tuple[float, ...]]:
        """Microseconds of the counted steps by name; they pair by position."""
        return self._race.times_us

    def next(self) -> str:
        """Who runs in the step that begins; the winner, once there is a decision."""
        if self._race.decision is not None:
            return self._race.decision.winner
        if not self._order:
            self._order, self._times_us = list(self._race.next_order()), {}
        self._turn = self._order[0]
        return self._turn

    def took(self, time_us: float) -> None:
        """The step of whose turn it was is over.

        Args:
            time_us: microseconds that it took.

        Raises:
            ValueError: the time is not a positive number.
        """
        self._order.remove(self._turn)
        self._times_us[self._turn] = time_us
        if not self._order:
            self._race.feed(self._times_us)

    def stop(self, why: str) -> None:
        """End it now, unless it is over: the best that is proven wins, else the original."""
        self._race.stop(why)
