"""A/A on a real clock: how often the race leaves the original for an identical copy of it.

``make aa`` (``python -m tests.bench.aa``) writes reports/aa.json and reports/aa.md. Every contest is one as a profile
run makes it: its clock, its race, one set of input buffers, a callable of its own for each contestant.
"""

from __future__ import annotations

import argparse
import functools
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor
from torch.nn import functional

from tests.bench.page import binomial_upper, made, made_line, write
from twinkle_tune.measure.clocks import slot_clock
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.measure.run import run_race
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.strategy.backend import renamed

GOAL = 0.01
_COLUMNS = 256
_MOST_ROWS = 2**19
_BUSY = "import os; p = os.getppid(); print(flush=True)\nwhile os.getppid() == p: sum(range(10**5))"

Op = Callable[[Tensor, Tensor], Tensor]


def _chain(x: Tensor, weight: Tensor) -> Tensor:
    return torch.softmax(functional.silu(functional.linear(functional.rms_norm(x, (_COLUMNS,)), weight)) + x, dim=-1)


OPS: Mapping[str, Op] = {
    "rms_norm": lambda x, weight: functional.rms_norm(x, (_COLUMNS,), weight[0]),
    "silu * mul": lambda x, weight: functional.silu(x) * x,
    "softmax": lambda x, weight: torch.softmax(x, dim=-1),
    "linear": lambda x, weight: functional.linear(x, weight),
    "chain": _chain,
}
REPEATS = {5.0: (7, 3), 50.0: (7, 2), 500.0: (6, 2), 5000.0: (3, 1)}
"""By how many microseconds a call is to take: contests of each op and number of contestants, idle and loaded."""
QUICK = {5.0: (1, 0), 50.0: (0, 1)}
_DEADLINE_S, _QUICK_DEADLINE_S = 8.0, 2.0
"""A contest may take so long: a race under load would take minutes, and the budget ends races in profile runs too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A contest to be run: calls of at least about ``aim_us``, on ``rows`` rows."""

    op: str
    aim_us: float
    rows: int
    contestants: int
    loaded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A contest that was run: its call's median time (None where no round was counted), bursts of each contestant."""

    contest: Planned
    call_us: float | None
    winner: str
    reason: str
    rounds: int
    bursts: float
    seconds: float

    @property
    def false(self) -> bool:
        """Whether it left the original."""
        return self.winner != ORIGINAL

    @property
    def cut(self) -> bool:
        """Whether its time was up before it was decided."""
        return "out of time" in self.reason


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the contests and write the page; 1 where more than 1% left the original."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.aa", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    parser.add_argument("--minutes", type=float, default=12.0, help="no contest begins later")
    parser.add_argument("--quick", action="store_true", help="a handful of contests, to see that it works")
    options = parser.parse_args(arguments)
    deadline_s = _QUICK_DEADLINE_S if options.quick else _DEADLINE_S
    with torch.no_grad():
        runs = run_all(plan(options.device, quick=options.quick), options.device, options.minutes, deadline_s)
    if not runs:
        print("no contest was finished: nothing is written")
        return 1
    facts = made(options.device)
    data = {**facts, **summary(runs), "runs": [asdict(run) for run in runs]}
    write(options.out, "aa", data, page(runs, made_line(facts)))
    return 0 if summary(runs)["met"] else 1


def plan(device: str, *, quick: bool = False) -> list[Planned]:
    """All contests in random order, so that a run that is cut short has some of each kind."""
    ops, repeats = (OPS, REPEATS) if not quick else (["softmax"], QUICK)
    rows = {(op, aim_us): rows_for(OPS[op], aim_us, device) for op in ops for aim_us in repeats}
    planned = [
        Planned(op=op, aim_us=aim_us, rows=rows[op, aim_us], contestants=contestants, loaded=loaded)
        for (op, aim_us) in rows
        for contestants in (2, 6)
        for loaded in (False, True)
        for _ in range(repeats[aim_us][loaded])
    ]
    random.Random(0).shuffle(planned)
    return planned


def rows_for(op: Op, aim_us: float, device: str) -> int:
    """The smallest power of two at which a call takes at least 0.7 of the time that is aimed at."""
    clock, rows = slot_clock(device), 1
    while rows < _MOST_ROWS:
        call = functools.partial(op, *inputs(rows, device))
        call()
        if min(clock.first_call_us(call) for _ in range(15)) >= 0.7 * aim_us:
            break
        rows *= 2
    return rows


def inputs(rows: int, device: str) -> tuple[Tensor, Tensor]:
    """Input of shape ``(rows, 256)`` and a square weight, float32."""
    return torch.randn(rows, _COLUMNS, device=device), torch.randn(_COLUMNS, _COLUMNS, device=device) / 16


def run_all(planned: Sequence[Planned], device: str, minutes: float, deadline_s: float) -> list[Run]:
    """Run contests until all are run, the time is up, or the run is interrupted."""
    began_s = time.monotonic()
    runs: list[Run] = []
    for number, contest in enumerate(planned):
        if time.monotonic() - began_s > 60 * minutes:
            print(f"time is up after {number} of {len(planned)} contests")
            break
        try:
            with busy_core() if contest.loaded else nullcontext():
                runs.append(run_one(contest, device, number, deadline_s))
        except KeyboardInterrupt:
            print(f"interrupted after {number} of {len(planned)} contests")
            break
        if runs[-1].false:
            print(f"false: {runs[-1]}", flush=True)
    return runs


def run_one(contest: Planned, device: str, seed: int, deadline_s: float) -> Run:
    """One contest of a call with itself."""
    names = [ORIGINAL, *(f"copy {number}" for number in range(1, contest.contestants))]
    shared = inputs(contest.rows, device)
    calls = {name: functools.partial(renamed(OPS[contest.op]), *shared) for name in names}
    for call in calls.values():
        call()
    began_s = time.monotonic()
    settings = RaceSettings()
    decision, times_us = run_race(calls, slot_clock(device), settings, seed=seed, deadline_s=deadline_s)
    counted = sum(len(times) for times in times_us.values()) / len(names)
    return Run(
        contest=contest,
        call_us=round(median(times_us[ORIGINAL]), 2) if times_us[ORIGINAL] else None,
        winner=decision.winner,
        reason=decision.reason,
        rounds=decision.rounds,
        bursts=round(counted + settings.warmup_rounds, 2),
        seconds=round(time.monotonic() - began_s, 3),
    )


@contextmanager
def busy_core() -> Iterator[subprocess.Popen[bytes]]:
    """Another process at full load for as long, which ends with this one in any case."""
    process = subprocess.Popen([sys.executable, "-c", _BUSY], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def summary(runs: Sequence[Run]) -> dict[str, object]:
    """Contests, false switches, their share and its upper bound, and the goal."""
    false = sum(run.false for run in runs)
    return {
        "contests": len(runs),
        "false": false,
        "share": false / len(runs),
        "upper": binomial_upper(false, len(runs)),
        "goal": GOAL,
        "met": false <= GOAL * len(runs),
    }


def page(runs: Sequence[Run], where: str) -> list[str]:
    """The page in Markdown."""
    false = sum(run.false for run in runs)
    verdict = "met" if summary(runs)["met"] else "MISSED"
    lines = [
        "# Contests of identical candidates",
        "",
        "Made by `make aa`. Every contestant is a copy of the original, so each switch away from it is false.",
        "Clock, race and shared inputs are those of a profile run. *Loaded*: another process kept one core busy.",
        "*Bursts*: timed of each contestant, in the two warm-up rounds and the counted ones. *Cut*: not decided when",
        f"{_DEADLINE_S:g} s were over, so that the original stayed unless one was accepted by then.",
        "",
        where,
        "",
        f"**{false} false switches in {len(runs)} contests** (goal: at most 1%, {verdict}); with 95% confidence",
        f"the rate is at most {binomial_upper(false, len(runs)):.2%} (Clopper and Pearson, one-sided).",
        "",
        "| call takes | contestants | machine | contests | false | cut | rounds (median) | bursts | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    cells = sorted({(run.contest.aim_us, run.contest.contestants, run.contest.loaded) for run in runs})
    for aim_us, contestants, loaded in cells:
        cell = [r for r in runs if r.contest.aim_us == aim_us and r.contest.contestants == contestants]
        cell = [r for r in cell if r.contest.loaded == loaded]
        lines.append(_line(cell))
    if false:
        lines += ["", "The false ones:", ""]
        lines += [f"- {run.contest.op}, {run.call_us} us, {run.contest}: {run.reason}" for run in runs if run.false]
    return lines


def _line(cell: Sequence[Run]) -> str:
    contest, times_us = cell[0].contest, [run.call_us for run in cell if run.call_us is not None]
    columns = (
        f"{min(times_us):.3g} to {max(times_us):.3g} us" if times_us else f"about {contest.aim_us:g} us",
        contest.contestants,
        "loaded" if contest.loaded else "idle",
        len(cell),
        sum(run.false for run in cell),
        sum(run.cut for run in cell),
        f"{median(run.rounds for run in cell):g}",
        f"{mean(run.bursts for run in cell):.1f}",
        f"{mean(run.seconds for run in cell):.2f}",
    )
    return f"| {' | '.join(map(str, columns))} |"


if __name__ == "__main__":
    sys.exit(main())
