"""Who has the next turn where a winner is lost: those that were nearly as good in the first race. Pure."""

from __future__ import annotations

from dataclasses import replace

from twinkle_tune.contest.selected import won
from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import ORIGINAL

MOST = 2
"""Runners-up that are timed again at most, after the winner: each costs a race of its own."""


def runners_up(contest: Contest, min_gain: float) -> tuple[str, ...]:
    """The candidates that would have been worth choosing beside the winner, the fastest first.

    They gained at least ``min_gain`` in the median of the rounds that they were timed in, and the interval of their
    ratio lies under 1. That is no proof, as they were picked among several: each must win a second race, as the
    winner must.

    Args:
        contest: with its winner; there is none after the original.
        min_gain: share of the original's time that a winner must save (0.02: 2%).
    """
    won = contest.selection.winner
    figures = {name: figure for name, figure in _figures(contest).items() if name != won}
    worthy = [n for n, figure in figures.items() if figure.ratio <= 1 - min_gain and figure.high < 1]
    return () if won == ORIGINAL else tuple(sorted(worthy, key=lambda name: figures[name].ratio))


def behind(contest: Contest, min_gain: float) -> tuple[str, ...]:
    """Those of the runners-up that were not faster than the winner: who was may have been timed again and lost."""
    figures = _figures(contest)
    own = figures.get(contest.selection.winner)
    return tuple(n for n in runners_up(contest, min_gain) if own is not None and figures[n].ratio >= own.ratio)


def with_winner(contest: Contest, name: str) -> Contest:
    """The contest as if another of its candidates had won its first race; as it is for its own winner."""
    if name == contest.selection.winner:
        return contest
    figure = _figures(contest)[name]
    gain = f"{1 - figure.ratio:.1%} faster than the original (median of {figure.rounds} rounds)"
    return replace(contest, selection=won(name, figure, gain))


def in_the_place_of(contest: Contest, lost: Contest) -> Contest:
    """A contest with a runner-up as its winner, which says whose place it has, and why."""
    chosen = contest.selection
    return replace(contest, selection=replace(chosen, reason=f"{chosen.reason}; runner-up: {lost.selection.reason}"))


def _figures(contest: Contest) -> dict[str, Ratio]:
    """The paired ratios of the first race by candidate."""
    times = {t.candidate: t.outcome.times_us for t in contest.trials if isinstance(t.outcome, Measurement)}
    original_us = times.pop(ORIGINAL, ())
    return {name: paired_ratio(times_us, original_us) for name, times_us in times.items() if original_us and times_us}
