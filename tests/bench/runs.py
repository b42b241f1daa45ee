"""Whole profiling runs beside those of the commit before this was looked at: what time they take, and what they find.

``python -m tests.bench.runs`` times this tree and that commit in turn, each with an empty store, and writes
reports/runs.json and reports/runs.md. ``make bench`` has the ratios of one turn.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.aa import busy_core
from tests.bench.earlier import BEFORE, ROOT, tree_of
from tests.bench.figure import Figure
from tests.bench.page import made, made_line, write

GOAL, GOAL_BUSY = 0.35, 0.45
MATTERS = 0.01
"""Share of a step: winners that saved more in one of the two are compared."""
COMMANDS = {
    "qwen3-tiny": ("profile", "qwen3-tiny", "--device", "cpu", "--candidates", "torch"),
    "llama-tiny, train": ("profile", "llama-tiny", "--mode", "train", "--device", "cpu", "--candidates", "torch"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One profiling run.

    Attributes:
        wall_s: seconds from its start to its end.
        cpu_s: processor seconds of it and of the processes that it started.
        load: the machine's load average of a minute when it began.
        contests: how many its profile has.
        winners: what its winners save of a step by themselves, the most of any, by slot, shape and name.
    """

    wall_s: float
    cpu_s: float
    load: float
    contests: int
    winners: dict[str, float]


def ran(tree: Path, command: Sequence[str]) -> Run:
    """Run a command of a tree with an empty store, and read the profile that it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "profile.json")
        load, before, began_s = os.getloadavg()[0], _children_s(), time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "twinkle_tune.cli", *command, "--out", str(out)],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "XDG_CACHE_HOME": folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        wall_s, cpu_s = time.monotonic() - began_s, _children_s() - before
        contests = json.loads(out.read_text(encoding="utf-8"))["contests"]
    # As plain data: the earlier commit's profile is of an earlier schema.
    saved = {
        _name(contest): max(seen["share"] for seen in contest["seen"]) * (1 - contest["selection"]["ratio"])
        for contest in contests
        if contest["seen"] and contest["selection"]["winner"] != "original"
    }
    winners = {name: round(share, 4) for name, share in saved.items() if share > 0}
    return Run(wall_s=wall_s, cpu_s=cpu_s, load=round(load, 1), contests=len(contests), winners=winners)


def _name(contest: dict[str, Any]) -> str:
    shapes = [arg["shape"] for arg in contest["workload"]["args"] if isinstance(arg, dict) and "shape" in arg]
    slot = contest["slot"]["name"].rpartition(".")[2]
    return f"{slot} {shapes[0] if shapes else ''} {contest['selection']['winner']}"


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@cache
def turns(count: int) -> dict[str, list[tuple[Run, Run]]]:
    """Of each command the runs of the earlier commit and of this tree, in turn; none where that commit is not here."""
    with tree_of(BEFORE) as then:
        if then is None:
            return {}
        found: dict[str, list[tuple[Run, Run]]] = {name: [] for name in COMMANDS}
        for _ in range(count):
            for name, command in COMMANDS.items():
                found[name].append((ran(then, command), ran(ROOT, (*command, "--no-ways"))))
        return found


def inference_time() -> Figure:
    """Wall time of the run for inference."""
    return _figure("qwen3-tiny", "wall_s", "wall time")


def inference_work() -> Figure:
    """Processor time of the run for inference."""
    return _figure("qwen3-tiny", "cpu_s", "processor time")


def training_time() -> Figure:
    """Wall time of the run for training."""
    return _figure("llama-tiny, train", "wall_s", "wall time")


def training_work() -> Figure:
    """Processor time of the run for training."""
    return _figure("llama-tiny, train", "cpu_s", "processor time")


RUNS = (inference_time, inference_work, training_time, training_work)


def _figure(name: str, field: str, what: str, goal: float = GOAL, count: int = 1) -> Figure:
    told, unit = f"a whole run ({' '.join(COMMANDS[name])}), {what}", f"of commit {BEFORE}'s"
    found = turns(count)
    if not found:
        return Figure(name=told, unit=unit, samples=(), goal=goal, skipped="skipped: shallow clone")
    ratios = tuple(getattr(now, field) / getattr(then, field) for then, now in found[name])
    return Figure(name=told, unit=unit, samples=ratios, goal=goal)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the runs, write both files, and fail if a figure misses its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="how often each is run")
    parser.add_argument("--busy", action="store_true", help="keep one core busy meanwhile")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="where the files go")
    asked = parser.parse_args(arguments)
    goal = GOAL_BUSY if asked.busy else GOAL
    with busy_core() if asked.busy else nullcontext():
        figures = [
            _figure(name, field, what, goal, asked.turns)
            for name in COMMANDS
            for field, what in (("wall_s", "wall time"), ("cpu_s", "processor time"))
        ]
    for figure in figures:
        print(f"{figure.name}: {figure.text} ({'met' if figure.met else 'MISSED'}: {figure.goal_text})")
    found, facts = turns(asked.turns), made("cpu")
    runs = {name: [{"then": asdict(a), "now": asdict(b)} for a, b in pairs] for name, pairs in found.items()}
    data = {**facts, "busy": asked.busy, "figures": [figure.as_dict() for figure in figures], "runs": runs}
    name = "runs-busy" if asked.busy else "runs"
    write(asked.out, name, data, _page(made_line(facts), figures, found, busy=asked.busy))
    return 0 if all(figure.met for figure in figures) else 1


def _page(where: str, figures: Sequence[Figure], found: dict[str, list[tuple[Run, Run]]], *, busy: bool) -> list[str]:
    return [
        "# How long a profiling run takes",
        "",
        f"Made by `python -m tests.bench.runs{' --busy' if busy else ''}`: commit {BEFORE} and this tree in turn, each "
        f"with an empty store{', beside a process that keeps one core busy' if busy else ''}. "
        "Whole-model ways do not compete.",
        "",
        where,
        "",
        "| what | figure | goal | met |",
        "|---|---|---|---|",
        *(f"| {f.name} | {f.text} | {f.goal_text} | {'yes' if f.met else 'no'} |" for f in figures),
        "",
        "| run | then, s | now, s | then, processor s | now, processor s | contests then, now | load then, now |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {name} | {a.wall_s:.0f} | {b.wall_s:.0f} | {a.cpu_s:.0f} | {b.cpu_s:.0f} | {a.contests}, {b.contests} "
            f"| {a.load}, {b.load} |"
            for name, pairs in found.items()
            for a, b in pairs
        ),
        "",
        f"Winners that save over {MATTERS:.0%} of a step by themselves, median of the turns in which they won:",
        "",
        "| run | winner | turns then | saves then | turns now | saves now |",
        "|---|---|---|---|---|---|",
        *_winners(found),
    ]


def _winners(found: dict[str, list[tuple[Run, Run]]]) -> list[str]:
    lines = []
    for name, pairs in found.items():
        for winner in sorted({w for pair in pairs for run in pair for w, s in run.winners.items() if s > MATTERS}):
            sides = [[pair[k].winners[winner] for pair in pairs if winner in pair[k].winners] for k in (0, 1)]
            cells = [f"{len(side)} of {len(pairs)} | {f'{median(side):.1%}' if side else '-'}" for side in sides]
            lines.append(f"| {name} | {winner} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
