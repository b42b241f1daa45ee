"""How small a gain a race without a winner could have been sure of."""

from __future__ import annotations

import random

import pytest

from twinkle_tune.measure.race import Race
from twinkle_tune.measure.settings import RaceSettings
from twinkle_tune.measure.visible import visible_gain
from twinkle_tune.slot import ORIGINAL

SETTINGS = RaceSettings(warmup_rounds=0)


def _scattered(rounds: int, spread: float, seed: int) -> list[float]:
    chance = random.Random(seed)
    return [100.0 * chance.lognormvariate(0.0, spread) for _ in range(rounds)]


def _accepts(candidate_us: list[float], settings: RaceSettings) -> bool:
    race = Race(["fast"], settings, seed=0)
    for time_us in candidate_us:
        if race.finished:
            break
        race.next_order()
        race.feed({ORIGINAL: 100.0, "fast": time_us})
    race.stop("the rounds are over")
    assert race.decision is not None
    return race.decision.winner == "fast"


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.3])
def test_a_candidate_that_gains_it_is_accepted(spread: float) -> None:
    """The same rounds, moved to save a little more than that, make the race accept; moved to save a little less, not.

    Of rounds whose median is where it is said to be, held by a race that looks once, at their end.
    """
    noise = _scattered(60, spread, seed=3)
    gain = visible_gain(noise, [100.0] * 60, SETTINGS, entered=1)
    assert gain is not None
    middle = sorted(noise)[29] * sorted(noise)[30]
    scale = 100.0 / middle**0.5

    def moved(share: float) -> list[float]:
        return [time_us * scale * (1 - share) for time_us in noise]

    assert _accepts(moved(gain + 0.01), SETTINGS)
    if gain > SETTINGS.min_gain:
        won = sum(time_us < 100.0 * (1 - SETTINGS.min_gain / 2) for time_us in moved(gain - 0.01))
        assert won < sum(time_us < 100.0 * (1 - SETTINGS.min_gain / 2) for time_us in moved(gain + 0.01))


def test_more_noise_hides_more() -> None:
    """The gain grows with the scatter, and is never below the least gain that a race looks for."""
    gains = [visible_gain(_scattered(60, spread, seed=1), [100.0] * 60, SETTINGS, 1) for spread in (0.001, 0.05, 0.3)]
    assert None not in gains
    assert gains == sorted(gains, key=lambda gain: gain or 0.0)
    assert gains[0] == pytest.approx(0.02)


def test_a_race_that_ended_early_hides_about_as_much_as_a_whole_one() -> None:
    """Of a third of the rounds the figure is near that of all: the gain would have been timed on."""
    noise = _scattered(60, 0.1, seed=4)
    whole, part = (visible_gain(noise[:rounds], [100.0] * rounds, SETTINGS, 1) for rounds in (60, 20))
    assert whole is not None
    assert part == pytest.approx(whole, abs=0.05)


def test_too_few_rounds_show_nothing() -> None:
    """Two rounds say nothing of their scatter, and a race that may have five proves nothing: there is no gain."""
    assert visible_gain([50.0] * 2, [100.0] * 2, SETTINGS, 1) is None
    short = RaceSettings(max_rounds=8, error_rate=0.1)
    assert visible_gain([50.0] * 8, [100.0] * 8, short, entered=99) is None
