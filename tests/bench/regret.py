"""Regret: what the race's choice costs over the best candidate's, which a long exhaustive run tells.

``make regret`` (``python -m tests.bench.regret``) writes reports/regret.json and reports/regret.md. Per contest: a real
race; 100 rounds of all contestants, recorded; and races fed with recorded rounds drawn in random order.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

import torch

from tests.bench.forms import FAMILIES
from tests.bench.page import made, made_line, quantile, write
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.measure.clocks import slot_clock
from twinkle_tune.measure.race import Race, RaceSettings
from twinkle_tune.measure.run import run_race
from twinkle_tune.slot import ORIGINAL

ROUNDS = 100
"""Rounds of the exhaustive run, and runs of each candidate that the cost is held against."""
REPLAYS = 50
GOALS = {"median": 0.01, "p95": 0.03, "cost": 1 / 3}
Times = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Raced:
    """What one race of a contest chose: its regret, and its bursts a contestant over :data:`ROUNDS`."""

    winner: str
    regret: float
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A contest: the long run's median of each contestant, the real race, and the replayed ones."""

    name: str
    medians_us: Mapping[str, float]
    real: Raced
    replays: tuple[Raced, ...]

    @property
    def best(self) -> str:
        """The fastest of the long run."""
        return min(self.medians_us, key=lambda name: self.medians_us[name])

    @property
    def gain(self) -> float:
        """What the best saves of the original's time."""
        return 1 - self.medians_us[self.best] / self.medians_us[ORIGINAL]

    def as_data(self) -> dict[str, object]:
        """For JSON: of the replayed races how often each contestant was chosen, and the figures."""
        chosen = Counter(raced.winner for raced in self.replays)
        return {**asdict(self), "best": self.best, "replays": {"chosen": chosen, **_figures(self.replays)}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the contests and write the page; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.regret", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    parser.add_argument("--minutes", type=float, default=15.0, help="no contest begins later")
    parser.add_argument("--quick", action="store_true", help="three contests of few rounds, to see that it works")
    options = parser.parse_args(arguments)
    planned = [
        (f"{name} {size[0]}x{size[1]}", family, size, forms)
        for name, family in FAMILIES.items()
        for size, forms in family.contests()
    ]
    random.Random(0).shuffle(planned)
    rounds, deadline_s = ROUNDS, math.inf
    if options.quick:
        planned, rounds, deadline_s = [each for each in planned if each[2] == each[1].sizes[0]][:3], 15, 2.0
    clock, began_s, contests = slot_clock(options.device), time.monotonic(), []
    for seed, (name, family, size, forms) in enumerate(planned):
        if time.monotonic() - began_s > 60 * options.minutes:
            print(f"time is up after {seed} of {len(planned)} contests")
            break
        with torch.no_grad():
            inputs = family.inputs(*size, options.device)
            calls = {form: functools.partial(call, *inputs) for form, call in forms.items()}
            contests.append(contest(name, calls, clock, rounds, deadline_s, seed))
        print(f"{contests[-1].name}: {contests[-1].real}", flush=True)
    facts = made(options.device)
    data = {**facts, **summary(contests), "contests": [each.as_data() for each in contests]}
    write(options.out, "regret", data, page(contests, made_line(facts)))
    return 0 if summary(contests)["met"] else 1


def contest(name: str, calls: Mapping[str, Call], clock: Clock, rounds: int, deadline_s: float, seed: int) -> Contest:
    """One contest of calls that share their inputs: its real race, its long run and the replayed races."""
    for call in calls.values():
        call()
    decision, times_us = run_race(calls, clock, RaceSettings(), seed=seed, deadline_s=deadline_s)
    recorded = record(calls, clock, rounds, seed)
    medians_us = {form: median(times) for form, times in recorded.items()}
    return Contest(
        name=name,
        medians_us=medians_us,
        real=_raced(decision.winner, times_us, medians_us),
        replays=tuple(replay(recorded, medians_us, seed) for seed in range(REPLAYS)),
    )


def record(calls: Mapping[str, Call], clock: Clock, rounds: int, seed: int) -> Times:
    """Time all contestants in so many rounds, each in random order; nobody leaves."""
    chance, times = random.Random(seed), {name: list[float]() for name in calls}
    sizes = {name: clock.block_calls(call) for name, call in calls.items()}
    for _ in range(rounds):
        for name in chance.sample(list(calls), len(calls)):
            times[name].append(clock.burst_us(calls[name], sizes[name]))
    return {name: tuple(figures) for name, figures in times.items()}


def replay(recorded: Times, medians_us: Mapping[str, float], seed: int) -> Raced:
    """A race fed with recorded rounds, each whole, none twice, in random order."""
    rounds = len(recorded[ORIGINAL])
    settings = RaceSettings(max_rounds=min(60, rounds), warmup_rounds=0)
    race = Race([name for name in recorded if name != ORIGINAL], settings, seed=seed)
    order = iter(random.Random(seed).sample(range(rounds), rounds))
    while not race.finished:
        number = next(order)
        race.feed({name: recorded[name][number] for name in race.next_order()})
    return _raced(race.leader[0], race.times_us, medians_us)


def _raced(winner: str, times_us: Times, medians_us: Mapping[str, float]) -> Raced:
    # The warm-up rounds cost as much as counted ones, whether a race was replayed or not.
    bursts = mean(len(times) for times in times_us.values()) + RaceSettings().warmup_rounds
    regret = medians_us[winner] / min(medians_us.values()) - 1
    return Raced(winner=winner, regret=round(regret, 5), cost=round(bursts / ROUNDS, 4))


def summary(contests: Sequence[Contest]) -> dict[str, object]:
    """Regret and cost over all contests, of real races and of replayed ones, and whether the goals are met."""
    real, replays = [each.real for each in contests], [raced for each in contests for raced in each.replays]
    figures = {kind: _figures(races) for kind, races in (("real", real), ("replayed", replays))}
    met = all(figures[kind][goal] <= limit for kind in figures for goal, limit in GOALS.items())
    return {"figures": figures, "goals": GOALS, "met": met}


def _figures(races: Sequence[Raced]) -> dict[str, float]:
    regrets = [raced.regret for raced in races]
    return {
        "races": len(races),
        "median": median(regrets),
        "mean": mean(regrets),
        "p95": quantile(regrets, 0.95),
        "most": max(regrets),
        "cost": mean(raced.cost for raced in races),
    }


def page(contests: Sequence[Contest], where: str) -> list[str]:
    """The page in Markdown."""
    small = [each for each in contests if each.gain < RaceSettings().min_gain]
    lines = [
        "# What the race's choice costs",
        "",
        f"Made by `make regret`. {len(contests)} contests of forms that compute the same; in about half of them",
        "the original is the library's good form, so that less is to be gained. The best is the one with the",
        f"smallest median of a long run: {ROUNDS} rounds of all contestants. Regret is the chosen one's median",
        "there over the best's, less 1. *Real*: races run beside the long run. *Replayed*: races fed with rounds of",
        f"the long run in random order, {REPLAYS} a contest. Cost: bursts a contestant, warm-up too, over {ROUNDS}.",
        "",
        where,
        "",
        "| races | how many | median (goal 1%) | mean | p95 (goal 3%) | most | cost (goal 33%) |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, races in (("real", [e.real for e in contests]), ("replayed", [r for e in contests for r in e.replays])):
        f = _figures(races)
        lines.append(
            f"| {kind} | {f['races']} | {f['median']:.2%} | {f['mean']:.2%} | {f['p95']:.2%} | {f['most']:.2%} "
            f"| {f['cost']:.1%} |"
        )
    lines += [
        "",
        f"Goals {'met' if summary(contests)['met'] else 'MISSED'}. A winner must save 2% of the original's time. Where",
        "the best saves less the original is to stay: up to 2% of regret is by design, and counts in full here. That",
        f"was so in {len(small)} of {len(contests)} contests. Between two winners of which neither is 1% faster the",
        "race does not look on.",
        "",
        "| contest | contestants | original | best | saves | real race: chose, regret, cost | replayed: regret, cost |",
        "|---|---|---|---|---|---|---|",
        *(_line(each) for each in sorted(contests, key=lambda each: -each.real.regret)),
    ]
    return lines


def _line(each: Contest) -> str:
    regret, cost = mean(r.regret for r in each.replays), mean(r.cost for r in each.replays)
    return (
        f"| {each.name} | {len(each.medians_us)} | {each.medians_us[ORIGINAL]:.4g} us | {each.best} | {each.gain:.1%} "
        f"| {each.real.winner}, {each.real.regret:.2%}, {each.real.cost:.0%} | {regret:.2%}, {cost:.0%} |"
    )


if __name__ == "__main__":
    sys.exit(main())
