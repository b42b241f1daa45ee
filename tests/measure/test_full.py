"""A race over its whole distance: everybody stays, the time ends it and stops nothing."""

from __future__ import annotations

import pytest

from tests.measure.test_run import ToldClock, takes
from twinkle_tune.measure.full import FullRace
from twinkle_tune.measure.paired import Decision
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.measure.run import hold


def held(challenger_us: float, most: int, deadline_s: float | None = None) -> tuple[Decision, int]:
    """The decision between the original's 100 us and a challenger, and its rounds."""
    race = FullRace(["a"], RaceSettings(max_rounds=most, warmup_rounds=0))
    decision, times_us = hold(
        race, {"original": takes(100.0), "a": takes(challenger_us)}, ToldClock(), deadline_s=deadline_s
    )
    assert len(times_us["a"]) == len(times_us["original"])
    return decision, len(times_us["a"])


@pytest.mark.parametrize("challenger_us", [10.0, 100.0, 1000.0])
def test_nobody_leaves_and_nobody_wins_early(challenger_us: float) -> None:
    """Whether it is ten times as fast or as slow, all rounds are held; the winner is that of any race, beyond doubt."""
    decision, rounds = held(challenger_us, 40)
    assert rounds == 40
    assert decision.winner == ("a" if challenger_us < 100 else "original")
    assert not decision.unclear


def test_the_fewest_rounds_are_held_when_the_time_is_over() -> None:
    """Enough for an interval; that the time was over is no reason to distrust what they say."""
    decision, rounds = held(50.0, 400, deadline_s=0.0)
    assert rounds == FullRace.fewest == 6
    assert not decision.stopped
