"""Machines made up for simulated races: what they add to the logarithm of the time of one burst.

The first three are those of everyday: log-normal noise, slow drift, a clock that ramps at first, in 30% of the contests
a lasting step in the midst of it, now and then a spike. The others were chosen to break the race. All of them
are blind to who is timed, and none to when: place in the round, number of the round, number of the burst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from twinkle_tune.measure.race import Race, RaceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a burst is timed: the ``place``-th of ``of`` in the ``round``-th round, the ``number``-th of the race."""

    number: int
    round: int
    place: int
    of: int


Machine = Callable[[np.random.Generator, int], Callable[[Moment], float]]
"""Makes the noise of one contest from its randomness and its number of contestants."""


def everyday(sigma: float, spikes: float) -> Machine:
    """The machine of the first paragraph, with this deviation of a burst and share of spikes."""

    def machine(rng: np.random.Generator, contestants: int) -> Callable[[Moment], float]:
        drift, ramp, step = rng.normal(0, 0.02), rng.uniform(0, 0.04), rng.normal(0, 0.05)
        step_at = rng.uniform(0, 20 * contestants) if rng.random() < 0.3 else math.inf

        def log(at: Moment) -> float:
            noise = rng.normal(0, sigma) + drift * math.sin(at.number / 40) + ramp * math.exp(-at.number / 20)
            noise += step if at.number > step_at else 0
            return float(noise + (rng.exponential(0.3) if rng.random() < spikes else 0))

        return log

    return machine


QUIET = everyday(sigma=0.003, spikes=0.002)
GPU = everyday(sigma=0.015, spikes=0.005)
CPU = everyday(sigma=0.05, spikes=0.02)


def given(shape: Callable[[Moment], float]) -> Machine:
    """What the moment alone decides, with a tenth of a percent of noise."""
    return lambda rng, contestants: lambda at: shape(at) + float(rng.normal(0, 0.001))


def step_in_the_middle(rng: np.random.Generator, contestants: int) -> Callable[[Moment], float]:
    """A fifth slower, or faster, from some burst of the third to eighth round on."""
    begins, size = rng.integers(3 * contestants, 9 * contestants), rng.choice((-0.2, 0.2))
    return lambda at: float((size if at.number >= begins else 0) + rng.normal(0, 0.001))


def two_rates(stays: float) -> Machine:
    """A clock of two rates 15% apart, that stays at its rate from one burst to the next with this probability."""

    def machine(rng: np.random.Generator, contestants: int) -> Callable[[Moment], float]:
        slow = [bool(rng.random() < 0.5)]

        def log(at: Moment) -> float:
            slow[0] ^= rng.random() >= stays
            return (0.15 if slow[0] else 0.0) + float(rng.normal(0, 0.001))

        return log

    return machine


def pareto(rng: np.random.Generator, contestants: int) -> Callable[[Moment], float]:
    """One burst in five takes longer, some a thousand times as long: a tail without an expected value."""
    return lambda at: float(rng.normal(0, 0.01) + (math.log1p(rng.pareto(0.9)) if rng.random() < 0.2 else 0))


def autocorrelated(stays: float, sigma: float) -> Machine:
    """Noise that keeps this share of itself from one burst to the next; 1 is a random walk."""

    def machine(rng: np.random.Generator, contestants: int) -> Callable[[Moment], float]:
        level = [0.0]

        def log(at: Moment) -> float:
            level[0] = stays * level[0] + float(rng.normal(0, sigma))
            return level[0]

        return log

    return machine


ADVERSARIES: Mapping[str, Machine] = {
    "drift in phase with the round": given(lambda at: 0.1 * math.sin(2 * math.pi * at.place / at.of + 0.5)),
    "drift that turns round every round": given(lambda at: 0.05 * (-1) ** (at.place % 2 + at.round % 2)),
    "the first of a round is slow": given(lambda at: 0.3 if at.place == 0 else 0.0),
    "the last of a round is fast": given(lambda at: -0.2 if at.place == at.of - 1 else 0.0),
    "each place is slower than the one before": given(lambda at: 0.04 * at.place),
    "a step in the middle": step_in_the_middle,
    "two clock rates at random": two_rates(0.5),
    "two clock rates that alternate": two_rates(0.05),
    "two clock rates in long phases": two_rates(0.95),
    "Pareto spikes": pareto,
    "heating": given(lambda at: 0.01 * at.number),
    "cooling": given(lambda at: -0.01 * at.number),
    "slow swings": autocorrelated(0.95, 0.03),
    "a random walk": autocorrelated(1.0, 0.05),
}


def contest(true_us: Mapping[str, float], machine: Machine, seed: int, settings: RaceSettings | None = None) -> Race:
    """A finished race between candidates of these true times."""
    rng = np.random.default_rng(seed)
    race = Race([name for name in true_us if name != "original"], settings, seed=seed)
    log, number, rounds = machine(rng, len(true_us)), 0, 0
    while not race.finished:
        times_us, order = {}, race.next_order()
        for place, name in enumerate(order):
            at = Moment(number=number, round=rounds, place=place, of=len(order))
            times_us[name] = true_us[name] * math.exp(log(at))
            number += 1
        race.feed(times_us)
        rounds += 1
    return race


def winners(true_us: Mapping[str, float], machine: Machine, contests: int) -> list[str]:
    """Who won in so many contests."""
    races = (contest(true_us, machine, seed) for seed in range(contests))
    return [race.decision.winner for race in races if race.decision is not None]


def equals(contestants: int) -> dict[str, float]:
    """The original and others that are all alike."""
    return {"original": 100.0, **{f"c{i}": 100.0 for i in range(contestants - 1)}}
