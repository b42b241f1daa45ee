"""Whole races on simulated machines, of everyday and chosen to break the race: how often it errs, and at what cost."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.measure.noise import ADVERSARIES, CPU, GPU, QUIET, Machine, contest, equals, winners
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.measure.statistics import sign_e_value

EVERYDAY = {"quiet": QUIET, "unlocked": GPU, "busy": CPU}
MACHINES = {**EVERYDAY, **ADVERSARIES}
BLIND = {
    "drift in phase with the round",
    "drift that turns round every round",
    "the first of a round is slow",
    "the last of a round is fast",
    "each place is slower than the one before",
    "two clock rates at random",
    "two clock rates that alternate",
    "Pareto spikes",
}
"""Machines on which a round says little about who is faster: there a gain may stay unseen."""


def switches(machine: Machine, contestants: int, contests: int, bias: float = 0.0) -> int:
    """How many contests of equals, but for a lasting bias of each of up to so much, left the original."""
    rng = np.random.default_rng(contestants)
    left = 0
    for seed in range(contests):
        true_us = {name: 100 * (1 + rng.uniform(-bias, bias)) for name in equals(contestants)}
        decision = contest(true_us, machine, seed).decision
        left += decision is not None and decision.winner != "original"
    return left


@pytest.mark.parametrize("challengers", [1, 5, 9])
@pytest.mark.parametrize("error_rate", [0.01, 0.001])
def test_fair_coins_are_taken_for_evidence_as_seldom_as_promised(challengers: int, error_rate: float) -> None:
    """Counted exactly: the chance that a round's fair coin ever gets anyone accepted is within the error rate.

    Whatever the machine does, between equals the random order makes each round such a coin, or one that comes up
    less often. So this is the bound for every machine.
    """
    rounds, accepted, undecided = RaceSettings().max_rounds, 0.0, {0: 1.0}
    for number in range(1, rounds + 1):
        tossed: dict[int, float] = {}
        for hits, chance in undecided.items():
            for now in (hits, hits + 1):
                if sign_e_value(now, number) >= challengers / error_rate:
                    accepted += chance / 2
                else:
                    tossed[now] = tossed.get(now, 0.0) + chance / 2
        undecided = tossed
    assert math.fsum(undecided.values()) + accepted == pytest.approx(1)
    assert 0 < accepted * challengers <= error_rate


@pytest.mark.parametrize("name", MACHINES)
def test_equals_never_replace_the_original(name: str) -> None:
    """Between two identical candidates and between ten, at most 1% of the contests leave the original."""
    for contestants, contests in ((2, 200), (10, 100)):
        assert switches(MACHINES[name], contestants, contests) <= 0.01 * contests


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bias", [0.0, 0.005], ids=["alike", "biased"])
@pytest.mark.parametrize("name", MACHINES)
def test_equals_never_replace_the_original_in_thousands_of_contests(name: str, bias: float) -> None:
    """The same in many more, of six as well, and with candidates each up to half a percent off for good."""
    for contestants, contests in ((2, 4000), (6, 1000), (10, 1000)):
        assert switches(MACHINES[name], contestants, contests, bias) <= 0.01 * contests


@pytest.mark.parametrize("name", ["quiet", "unlocked", "busy", "each place is slower than the one before", "heating"])
def test_a_small_lasting_bias_proves_nothing(name: str) -> None:
    """Candidates each up to half a percent off for good, as by where they lie in memory, switch in at most 1%."""
    assert switches(MACHINES[name], 6, 200, bias=0.005) <= 2


def test_a_bias_drawn_without_limit_seldom_proves_anything() -> None:
    """Candidates off by a normal half of a percent, some by more than that, switch in at most 1%."""
    rng = np.random.default_rng(0)
    switched = 0
    for seed in range(200):
        true_us = {name: float(100 * np.exp(rng.normal(0, 0.005))) for name in equals(5)}
        switched += contest(true_us, GPU, seed).leader[0] != "original"
    assert switched <= 2


@pytest.mark.parametrize("contestants", [2, 6, 10])
@pytest.mark.parametrize("name", [name for name in MACHINES if name not in BLIND])
def test_ten_percent_are_found(name: str, contestants: int) -> None:
    """A candidate 10% faster wins at least 98% of its contests, on a busy CPU too, and whatever drifts."""
    won = winners({**equals(contestants), "c0": 90.0}, MACHINES[name], 100)
    assert won.count("c0") >= 98


def test_spikes_without_limit_hide_few_gains() -> None:
    """Where every fifth burst is a spike, some a thousand times as long, 10% are found in nine of ten contests."""
    assert winners({**equals(2), "c0": 90.0}, MACHINES["Pareto spikes"], 300).count("c0") >= 270


def test_best_of_five_is_found_on_a_gpu() -> None:
    """Where one of five is 3% faster, what is chosen takes on average less than 0.2% more than the best."""
    true_us = {**equals(5), "c1": 97.0}
    regret = [true_us[name] / 97.0 - 1 for name in winners(true_us, GPU, 400)]
    assert np.mean(regret) < 0.002


def test_many_good_ones_end_with_one_of_the_best() -> None:
    """Of nine that save 7% to 15% the choice is on average within 0.2% of the best, never the original."""
    true_us = {"original": 100.0, **{f"c{i}": 85.0 + i for i in range(9)}}
    won = winners(true_us, GPU, 100)
    assert "original" not in won
    assert np.mean([true_us[name] / 85.0 - 1 for name in won]) < 0.002


@pytest.mark.parametrize("contestants", [2, 6])
@pytest.mark.parametrize("name", ["unlocked", "busy"])
def test_what_noise_hides_is_cheap(name: str, contestants: int) -> None:
    """Races of equals end on average after at most two fifths of the rounds that they may have."""
    races = [contest(equals(contestants), MACHINES[name], seed) for seed in range(100)]
    assert np.mean([race.rounds for race in races]) <= 0.4 * RaceSettings().max_rounds


def test_clear_cases_are_cheap() -> None:
    """On a quiet machine each of five is timed in at most eight counted rounds on average, winner or none."""
    for true_us in (equals(5), {**equals(5), "c1": 90.0}):
        races = [contest(true_us, QUIET, seed) for seed in range(50)]
        assert np.mean([len(times) for race in races for times in race.times_us.values()]) <= 8
