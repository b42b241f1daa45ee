"""The statistics behind a verdict."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from twinkle_tune.measure.statistics import enough_hits, is_out_of_reach, paired_ratio, sign_e_value

BETS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@pytest.mark.parametrize(("hits", "rounds"), [(0, 0), (1, 1), (0, 1), (7, 9), (60, 60), (0, 60)])
def test_e_value_is_the_mean_of_the_six_bets(hits: int, rounds: int) -> None:
    """The e-value is the mixture as it is written down."""
    written = sum((2 * p) ** hits * (2 * (1 - p)) ** (rounds - hits) for p in BETS) / 6
    assert sign_e_value(hits, rounds) == pytest.approx(written, rel=1e-12)


@pytest.mark.parametrize("rounds", [1, 2, 5, 10])
def test_e_value_expects_one_under_a_fair_coin(rounds: int) -> None:
    """Averaged over all equally likely outcomes of fair coins the capital stays exactly what it was."""
    capital = [sign_e_value(sum(tosses), rounds) for tosses in product((0, 1), repeat=rounds)]
    assert sum(capital) / 2**rounds == pytest.approx(1.0, rel=1e-12)


def test_e_value_seldom_reaches_a_hundred_under_a_fair_coin() -> None:
    """Looked at after each of 60 rounds, "even odds" is refuted at 1% in at most 1% of the runs."""
    tosses = np.random.default_rng(0).random((4000, 60)) < 0.5
    table = np.array([[sign_e_value(min(h, n), n) for n in range(61)] for h in range(61)])
    hits = tosses.cumsum(axis=1)
    ever = (table[hits, np.arange(1, 61)] >= 100).any(axis=1)
    assert ever.mean() <= 0.01


def test_e_value_stays_a_number_over_a_million_rounds() -> None:
    """Endless evidence is capped and does not overflow."""
    assert math.isfinite(sign_e_value(1_000_000, 1_000_000))


@pytest.mark.parametrize(("hits", "rounds"), [(-1, 3), (4, 3)])
def test_e_value_refuses_impossible_counts(hits: int, rounds: int) -> None:
    """More hits than rounds, or fewer than none, is an error that says so."""
    with pytest.raises(ValueError, match=rf"{hits} hits in {rounds} rounds"):
        sign_e_value(hits, rounds)


def test_what_cannot_be_reached_any_more_is_out_of_reach() -> None:
    """Where even a hit in each round that is left would not be enough, no forecast says otherwise."""
    most, enough = 60, 100.0
    needed = enough_hits(most, enough)
    assert sign_e_value(needed, most) >= enough > sign_e_value(needed - 1, most)
    for rounds in range(8, most + 1):
        for hits in range(rounds + 1):
            if hits + most - rounds < needed:
                assert is_out_of_reach(hits, rounds, most, enough)
            if sign_e_value(hits, rounds) >= enough:
                assert not is_out_of_reach(hits, rounds, most, enough)


@pytest.mark.parametrize("challengers", [1, 2, 9])
def test_a_forecast_costs_few_wins_and_saves_most_rounds(challengers: int) -> None:
    """Counted exactly, with forecasts and without: nobody wins oftener, at most one in forty wins is lost, and who
    has nothing to gain is timed in a third of the rounds.
    """
    most, enough = 60, challengers * 100.0

    def outcome(rate: float, *, forecasts: bool) -> tuple[float, float]:
        won, timed, open_ = 0.0, 0.0, {0: 1.0}
        for rounds in range(1, most + 1):
            timed += math.fsum(open_.values())
            tossed: dict[int, float] = {}
            for hits, chance in open_.items():
                for now, likely in ((hits + 1, chance * rate), (hits, chance * (1 - rate))):
                    if rounds >= 5 and sign_e_value(now, rounds) >= enough:
                        won += likely
                    elif not (forecasts and rounds >= 8 and is_out_of_reach(now, rounds, most, enough)):
                        tossed[now] = tossed.get(now, 0.0) + likely
            open_ = tossed
        return won, timed

    for rate in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95):
        without, rounds = outcome(rate, forecasts=False)
        with_them, fewer = outcome(rate, forecasts=True)
        assert without - 0.025 <= with_them <= without
        assert fewer <= rounds * (1 / 3 if rate <= 0.5 else 1)


def test_ratio_is_the_median_of_pairs_not_the_ratio_of_medians() -> None:
    """Times pair by position: drift that both see cancels."""
    original_us = [100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0]
    measured = paired_ratio([time * 0.9 for time in original_us], original_us)
    assert measured.ratio == pytest.approx(0.9)
    assert measured.low == pytest.approx(0.9)
    assert measured.high == pytest.approx(0.9)


def test_shorter_sequence_decides_the_rounds() -> None:
    """A candidate that left early is compared over the rounds that it ran."""
    measured = paired_ratio([50.0, 50.0], [100.0, 100.0, 1.0, 1.0])
    assert measured.rounds == 2
    assert measured.ratio == pytest.approx(0.5)


@pytest.mark.parametrize(("rounds", "cut"), [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (60, 21)])
def test_interval_takes_the_order_statistics_of_the_sign_test(rounds: int, cut: int) -> None:
    """At 95% the interval leaves out as many ratios at either end as tables of the sign test say."""
    measured = paired_ratio([float(i) for i in range(1, rounds + 1)], [1.0] * rounds)
    assert (measured.low, measured.high) == (1.0 + cut, float(rounds - cut))


@pytest.mark.parametrize("rounds", [6, 10, 25, 60])
def test_interval_holds_the_median_often_enough(rounds: int) -> None:
    """Over simulated races with skewed noise the 95% interval holds the true median in at least 95%."""
    noise = np.random.default_rng(rounds).exponential(1.0, (1500, rounds)) + 1
    held = 0
    for row in noise:
        measured = paired_ratio(row.tolist(), [1.0] * rounds)
        held += measured.low <= 1 + math.log(2) <= measured.high
    # Four standard errors of 1500 simulated races below the claim would be 0.927.
    assert held / 1500 >= 0.945


@pytest.mark.parametrize("fault", [0.0, -1.0, math.nan, math.inf])
def test_ratio_refuses_what_is_no_time(fault: float) -> None:
    """A zero, negative or infinite time is refused wherever it stands."""
    with pytest.raises(ValueError, match="expected a positive finite number"):
        paired_ratio([1.0, fault], [1.0, 1.0])
    with pytest.raises(ValueError, match="expected a positive finite number"):
        paired_ratio([1.0, 1.0], [1.0, fault])


def test_ratio_refuses_no_rounds_and_odd_confidence() -> None:
    """Nothing measured, or a confidence that is no probability, is an error."""
    with pytest.raises(ValueError, match="no pair of times"):
        paired_ratio([], [1.0])
    with pytest.raises(ValueError, match=r"confidence=95"):
        paired_ratio([1.0], [1.0], confidence=95)
