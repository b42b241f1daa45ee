"""Searches replayed on landscapes: ``python -m tests.search.replay`` writes reports/search-replay.{json,md}.

A replay on a CPU of times that were recorded on GPUs, or made up: it shows what a search finds, and measures no GPU.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.search.benches import Replay
from tests.search.landscape import Landscape, recorded
from tests.search.synthetic import matmul, row_kernel, rugged
from twinkle_tune.ops.space import Config
from twinkle_tune.outcome import Rejection
from twinkle_tune.search.record import SearchSettings
from twinkle_tune.search.search import search

BUDGETS = (60, 120, 200)
SEEDS = 30
EASY = ("dedispersion-A4000", "synthetic row kernel")
FOLDER = Path("reports")

Way = Callable[[Landscape, int, int], float]
"""A way to search: landscape, budget and seed to the regret of what it chose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Regret (0.05: 5% slower than the exhaustive best) of one way over all seeds."""

    landscape: str
    way: str
    budget: int
    mean: float
    median: float
    share: float
    seconds: float


def landscapes() -> tuple[Landscape, ...]:
    """All of them; each has more than 500 configs."""
    names = ("convolution-A100", "dedispersion-A4000")
    return (*map(recorded, names), matmul(), row_kernel(), *(rugged(seed) for seed in range(3)))


def ours(landscape: Landscape, budget: int, seed: int) -> float:
    """The search of this package with its final race, from a default drawn at random: a good one would flatter it."""
    result = search(
        landscape.space,
        Replay(landscape, seed),
        SearchSettings(budget=budget, seed=seed),
        default=anyone(landscape, seed),
    )
    return math.inf if result.config is None else landscape.regret(result.config)


def at_random(landscape: Landscape, budget: int, seed: int) -> float:
    """As many configs at random; what is judged is the best of the six fastest, which a final race would find."""
    bench, draw = Replay(landscape, seed), random.Random(seed)
    times: dict[tuple[int, ...], float] = {}
    pool = list(landscape.times_us)
    draw.shuffle(pool)
    for values in pool:
        if len(times) == budget:
            break
        outcome = bench.time_us(landscape.space.named(list(values)))
        if not isinstance(outcome, Rejection):
            times[values] = outcome
    return _best_of_fastest(landscape, times)


def tpe_then_steps(landscape: Landscape, budget: int, seed: int) -> float:
    """Optuna's TPE for half of the budget, then steps around the fastest; judged as :func:`at_random`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, bench, draw = landscape.space, Replay(landscape, seed), random.Random(seed)
    distributions = {
        each.name: optuna.distributions.IntDistribution(0, len(each.values) - 1) for each in space.parameters
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
    times: dict[tuple[int, ...], float | None] = {}

    def timed(config: Config) -> float | None:
        key = tuple(space.in_order(config))
        if key not in times:
            outcome = Rejection(stage="capability", reason="") if space.unfit(config) else bench.time_us(config)
            times[key] = None if isinstance(outcome, Rejection) else outcome
        return times[key]

    for _ in range(10 * budget):
        if len(bench.timed) >= budget // 2:
            break
        trial = study.ask(dict(distributions))
        time_us = timed({each.name: each.values[trial.params[each.name]] for each in space.parameters})
        trial.set_constraint("runs", 1.0 if time_us is None else -1.0)
        study.tell(trial, 100.0 if time_us is None else math.log(time_us))
    while len(bench.timed) < budget:
        near = _untried_neighbours(landscape, times)
        if not near:
            break
        timed(draw.choice(near))
    return _best_of_fastest(landscape, {key: each for key, each in times.items() if each is not None})


WAYS: dict[str, Way] = {"random": at_random, "TPE, then steps": tpe_then_steps, "ours": ours}


def cell(landscape: Landscape, way: str, budget: int, seeds: int = SEEDS) -> Cell:
    """One way on one landscape at one budget."""
    began = time.perf_counter()
    regrets = [WAYS[way](landscape, budget, seed) for seed in range(seeds)]
    return Cell(
        landscape=landscape.name,
        way=way,
        budget=budget,
        mean=statistics.fmean(regrets),
        median=statistics.median(regrets),
        share=budget / landscape.size,
        seconds=(time.perf_counter() - began) / seeds,
    )


def main() -> int:
    """Replay everything and write both files."""
    cells = []
    for landscape in landscapes():
        for way in WAYS:
            for budget in BUDGETS:
                cells.append(cell(landscape, way, budget))
                print(cells[-1], flush=True)
    FOLDER.mkdir(exist_ok=True)
    data = {"seeds": SEEDS, "cells": [asdict(each) for each in cells]}
    (FOLDER / "search-replay.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (FOLDER / "search-replay.md").write_text(_page(cells), encoding="utf-8")
    return 0


def _page(cells: Sequence[Cell]) -> str:
    lines = [
        "# The search, replayed",
        "",
        "Made by `python -m tests.search.replay`, on a CPU. The times are recorded ones of the GPUs in the names (see",
        "`tests/search/landscapes/`), or made up (`tests/search/synthetic.py`), with 1% noise. It shows what a search",
        "finds with so many timings; it measures no GPU.",
        "",
        f"Regret: by how much the chosen config is slower than the exhaustive best; median (mean) of {SEEDS} seeds.",
        "*Ours* chooses by its final race against a default drawn at random; of the others the best of their six",
        "fastest counts.",
        "",
    ]
    for name in dict.fromkeys(each.landscape for each in cells):
        own = {(each.way, each.budget): each for each in cells if each.landscape == name}
        lines += [f"## {name}", "", "| timings | share of the configs | " + " | ".join(WAYS) + " |", "|---" * 5 + "|"]
        for budget in BUDGETS:
            figures = (f"{own[way, budget].median:.1%} ({own[way, budget].mean:.1%})" for way in WAYS)
            lines.append(f"| {budget} | {own['ours', budget].share:.1%} | " + " | ".join(figures) + " |")
        lines.append("")
    return "\n".join(lines)


def anyone(landscape: Landscape, seed: int) -> Config:
    ran = [values for values, time_us in landscape.times_us.items() if time_us is not None]
    return landscape.space.named(list(random.Random(seed).choice(ran)))


def _best_of_fastest(landscape: Landscape, times: dict[tuple[int, ...], float]) -> float:
    fastest = sorted(times, key=times.__getitem__)[:6]
    return min(landscape.regret(landscape.space.named(list(values))) for values in fastest)


def _untried_neighbours(landscape: Landscape, times: dict[tuple[int, ...], float | None]) -> list[dict[str, int]]:
    space = landscape.space
    ran = [(time_us, key) for key, time_us in times.items() if time_us is not None]
    for _, key in sorted(ran):
        near = [c for c in space.neighbours(space.named(list(key))) if tuple(space.in_order(c)) not in times]
        if near:
            return near
    return []


if __name__ == "__main__":
    sys.exit(main())
