"""Replayed: what the search finds with so many timings, against chance and against the exhaustive best."""

from __future__ import annotations

import statistics
from functools import cache

import pytest

from tests.search.landscape import Landscape, recorded
from tests.search.replay import BUDGETS, EASY, cell, landscapes, ours
from tests.search.synthetic import row_kernel, rugged

RECORDED_GOAL = {60: 0.27, 120: 0.19, 200: 0.15}
"""Regret on the recorded convolution of an A100 by TPE for half of the budget and steps afterwards, as known from
an earlier replay."""


@cache
def every() -> dict[str, Landscape]:
    """The landscapes by name."""
    return {landscape.name: landscape for landscape in landscapes()}


def test_landscapes_are_large_enough() -> None:
    """Each has at least 500 configs, and one that runs."""
    assert all(landscape.size >= 500 and landscape.best_us > 0 for landscape in every().values())


def test_a_few_seeds_beat_chance_on_a_rugged_space() -> None:
    """With 60 timings of 2,568 configs the median regret of 8 seeds is under half of that of chance."""
    landscape = rugged(1)
    assert 2 * cell(landscape, "ours", 60, seeds=8).median < cell(landscape, "random", 60, seeds=8).median


def test_an_easy_space_needs_few_timings() -> None:
    """On an easy space of 1,260 configs 120 timings, under a tenth, come within 3% of the exhaustive best."""
    landscape = row_kernel()
    assert landscape.size >= 120 / 0.15
    assert statistics.median(ours(landscape, 120, seed) for seed in range(5)) <= 0.03


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("budget", BUDGETS)
def test_as_good_as_known_on_the_recorded_convolution(budget: int) -> None:
    """Median of 30 seeds, the final choice included."""
    assert cell(recorded("convolution-A100"), "ours", budget).median <= RECORDED_GOAL[budget]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", [landscape.name for landscape in landscapes()])
def test_better_than_chance_everywhere(name: str, budget: int) -> None:
    """Median and mean of 30 seeds, at every budget."""
    landscape = every()[name]
    mine, chance = cell(landscape, "ours", budget), cell(landscape, "random", budget)
    assert mine.median < chance.median
    assert mine.mean < chance.mean


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", EASY)
def test_within_3_percent_on_the_easy_spaces(name: str) -> None:
    """With 120 timings, at most 15% of the configs, the median of 30 seeds is within 3% of the exhaustive best."""
    landscape = every()[name]
    found = cell(landscape, "ours", 120)
    assert found.share <= 0.15
    assert found.median <= 0.03
