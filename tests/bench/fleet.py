"""A plan of 10,000 contests on 64 simulated devices that fail, and what ten times that would meet first.

``python -m tests.bench.fleet`` simulates it with 100 seeds by the code that hands out contests on a Ray cluster, and
measures here what that code, and packing a contest, costs. It writes reports/fleet.md and .json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import torch
from torch import nn

from tests.bench.page import made, made_line, write
from tests.fleet.gated import Gated
from tests.fleet.simulated import Plan, Ran, simulate
from twinkle_tune.capture.capture import capture
from twinkle_tune.capture.step import make_steps
from twinkle_tune.fleet.place import parcel_of
from twinkle_tune.kernel import Registry
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.mode import Mode
from twinkle_tune.terms import Terms
from twinkle_tune.tune.task import Task

TIMES = 5
SMALL, LARGE = 256, 2048
"""Widths of the norms and MLPs whose packing is timed."""


def packing(width: int) -> tuple[float, int]:
    """Seconds (median of several) and bytes of packing a contest of an MLP."""
    model, registry = nn.Sequential(Gated(width)), Registry()
    steps = make_steps(model, torch.randn(1, 128, width), Mode.INFERENCE, "cpu")
    seen = capture(model, steps, find_slots(model, registry), "cpu").observations
    largest = next(each for each in seen if isinstance(each.module, Gated))
    task = Task(
        observation=largest,
        candidates=contestants(largest.occurrence, "cpu", Mode.INFERENCE, registry),
        terms=Terms(mode=Mode.INFERENCE, device="cpu"),
    )
    took_s, size = [], 0
    for _ in range(TIMES):
        began_s = time.perf_counter()
        size = len(parcel_of(task).data)
        took_s.append(time.perf_counter() - began_s)
    return median(took_s), size


def timed(plan: Plan, seed: int = 0) -> tuple[Ran, float]:
    """A run, and its seconds of processor time by race."""
    began_s = time.process_time()
    ran = simulate(plan, seed)
    return ran, (time.process_time() - began_s) / ran.races


def page(plan: Plan, seeds: int) -> tuple[dict[str, object], list[str]]:
    """The figures, and the page."""
    small_s, small = packing(SMALL)
    large_s, large = packing(LARGE)
    plan = replace(plan, hand_out_s=small_s)
    runs = [timed(plan, seed) for seed in range(seeds)]
    bigger = replace(plan, contests=10 * plan.contests, devices=10 * plan.devices)
    tenfold, tenfold_s = timed(bigger)
    heavy, _ = timed(replace(bigger, hand_out_s=large_s))
    rans = [ran for ran, _ in runs]
    code_s = median(each for _, each in runs)
    rate = median(ran.races / ran.took_s for ran in rans)
    here = made("cpu")
    figures: dict[str, object] = {
        **here,
        "seeds": seeds,
        "plan": asdict(plan),
        "lost": sum(plan.contests - ran.ended for ran in rans),
        "given_up": [ran.given_up for ran in rans],
        "failures": [ran.failures for ran in rans],
        "busy": [round(ran.busy, 4) for ran in rans],
        "useful": [round(ran.useful, 4) for ran in rans],
        "packing": {"small": [small_s, small], "large": [large_s, large]},
        "tenfold": {"small": asdict(tenfold), "large": asdict(heavy)},
    }
    lines = [
        "# A plan of 10,000 contests on 64 devices, simulated",
        "",
        f"Made by `python -m tests.bench.fleet`, {seeds} seeds. {made_line(here)}",
        "",
        f"Races take {plan.race_s:g} s in the median (lognormal, spread {plan.spread:g}), {plan.second:.0%} of "
        f"contests have a second one, half as long; a device fails every {plan.fails_s:g} s on average and is back "
        f"after {plan.back_s:g} s; {plan.deadly:.1%} of contests end every device that holds them. The lengths and "
        "failures are invented, the code that hands out contests is the one that runs on a cluster.",
        "",
        "| | least | median | most |",
        "|---|---|---|---|",
        _row("devices busy", [ran.busy for ran in rans], "{:.1%}"),
        _row("of which for a race that ended", [ran.useful for ran in rans], "{:.1%}"),
        _row("failures of devices", [ran.failures for ran in rans], "{:.0f}"),
        _row("contests given up after three devices", [ran.given_up for ran in rans], "{:.0f}"),
        "",
        f"Of {seeds} × {plan.contests:,} contests {figures['lost']} were lost.",
        "",
        "## Where ten times that would be held up first",
        "",
        f"The run's own process packs each race and sends it, one after another: {small_s * 1e3:.1f} ms for an MLP of "
        f"{small / 2**20:.1f} MiB, {large_s * 1e3:.0f} ms for one of {large / 2**20:.0f} MiB. The decisions take "
        f"{code_s * 1e6:.0f} µs a race with {plan.devices} devices and {tenfold_s * 1e6:.0f} µs with {bigger.devices}. "
        f"{plan.devices} devices ask for {rate:.1f} races a second.",
        "",
        f"With {bigger.contests:,} contests on {bigger.devices} devices they are busy {tenfold.busy:.1%} of the time "
        f"where all are small, and {heavy.busy:.1%} where all are large: packing is what holds a larger fleet up "
        f"first, from {plan.race_s / large_s:.0f} devices on where races of {plan.race_s:g} s are that large. Several "
        "runs side by side, each with a part of the models, have a process each.",
    ]
    return figures, lines


def _row(name: str, values: Sequence[float], form: str) -> str:
    of: tuple[Callable[[Sequence[float]], float], ...] = (min, median, max)
    return f"| {name} | {' | '.join(form.format(each(values)) for each in of)} |"


def main() -> None:
    """Simulate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("reports"))
    given = parser.parse_args()
    figures, lines = page(Plan(), given.seeds)
    write(given.out, "fleet", figures, lines)


if __name__ == "__main__":
    main()
