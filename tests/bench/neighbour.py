"""Profiling from a neighbour's profile beside profiling in full: what time it takes, and what it finds.

``python -m tests.bench.neighbour`` profiles a model in full and with ``--from-hub`` in turn, each with empty caches,
and writes reports/neighbour.json and reports/neighbour.md. The neighbour is the first full run, as if it had been made
with another torch, on a Hub of this process.
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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from tests.bench.page import made, made_line, write
from tests.hub.server import LocalHub
from twinkle_tune.profile.collection import LIST, Collection, listed, path_of
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.json_text import profile_text, to_data
from twinkle_tune.profile.schema import Profile
from twinkle_tune.slot import ORIGINAL

ROOT = Path(__file__).parents[2]
REPO = "bench/profiles"
GOAL = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One profiling run.

    Attributes:
        took_s: seconds from its start to its end, imports and loading included.
        cpu_s: processor seconds of it and of what it started, compilers among them: steadier where other work runs.
        load: the machine's load average of a minute when it began.
        phases: seconds by phase, as the profile tells.
        winners: who won, by slot and call, where the original did not; and the ways that won steps.
        steps: of each step of the whole model the time over the original's with all that won, and its interval.
        calls: for how many of the model's calls the ways that won are shown: a first run from a neighbour's profile
            leaves other sizes to a second one.
    """

    took_s: float
    cpu_s: float
    load: float
    phases: dict[str, float]
    winners: dict[str, str]
    steps: dict[str, tuple[float, float, float]]
    calls: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both in turn, write both files; 1 where the goal is missed or something was found that is worse."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.neighbour", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", default="qwen3-tiny")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("reports"))
    parser.add_argument("options", nargs="*", help="further options of 'twinkle-tune profile', after --")
    options = parser.parse_args(arguments)
    command = ("profile", options.model, "--device", "cpu", *options.options)
    found: list[tuple[Run, Run]] = []
    with LocalHub() as hub, tempfile.TemporaryDirectory() as folder:
        for turn in range(options.turns):
            both: dict[str, Run] = {}
            # In turn: which of the two comes first changes; the first neighbour has to be made before.
            for name in ("full", "near") if turn % 2 == 0 else ("near", "full"):
                profile, both[name] = ran((*command, *(("--from-hub", REPO) if name == "near" else ())), hub, folder)
                if not hub.datasets:
                    hub.push_data(REPO, collection(profile))
                print(f"turn {turn + 1}, {name}: {both[name].took_s:.0f} s, load {both[name].load}", flush=True)
            found.append((both["full"], both["near"]))
            print(told(*found[-1]), flush=True)
    ratios = [near.took_s / full.took_s for full, near in found]
    data = {**made("cpu"), "command": " ".join(command), "goal": GOAL, "turns": [list(map(asdict, t)) for t in found]}
    write(options.out, "neighbour", data, _page(made_line(made("cpu")), " ".join(command), found))
    is_met = median(ratios) <= GOAL and all(is_no_worse(full, near) for full, near in found)
    cpu = ", ".join(f"{near.cpu_s / full.cpu_s:.2f}" for full, near in found)
    told_s = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"ratios {told_s} (of processor time {cpu}): {'met' if is_met else 'MISSED'} (at most {GOAL})")
    return 0 if is_met else 1


def ran(command: Sequence[str], hub: LocalHub, folder: str) -> tuple[Profile, Run]:
    """Run a command with empty caches, and read the profile that it wrote."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        out, load, before_s = Path(own, "profile.json"), os.getloadavg()[0], _children_s()
        began_s = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "twinkle_tune.cli", *command, "--out", str(out)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **_empty(own), **hub.environment(Path(own, "hub"))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        took_s = time.monotonic() - began_s
        return (profile := load_profile(out)), run_of(profile, took_s, _children_s() - before_s, load)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _empty(folder: str) -> dict[str, str]:
    """Caches of the package and of the compilers with nothing in them."""
    names = ("XDG_CACHE_HOME", "TWINKLE_TUNE_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    return {name: str(Path(folder, name.lower())) for name in names}


def run_of(profile: Profile, took_s: float, cpu_s: float, load: float) -> Run:
    """What a profile says of its run."""
    phases: Counter[str] = Counter()
    for each in profile.run.spans if profile.run is not None else ():
        phases[each.phase] += each.took_s  # type: ignore[assignment]
    won = {f"{c.slot.name} {c.workload.key}": c.selection.winner for c in profile.winners}
    return Run(
        took_s=took_s,
        cpu_s=cpu_s,
        load=round(load, 1),
        phases={name: round(seconds, 1) for name, seconds in phases.items()},
        winners=won | {f"step {setup.label}": setup.name for setup in profile.setups},
        steps={s.label: (s.ratio, s.low, s.high) for s in profile.steps if not s.left_out},
        calls=sum(len(setup.calls) for setup in profile.setups),
    )


def collection(profile: Profile) -> Mapping[str, bytes]:
    """The files of a collection that holds a profile, as if it had been made with another torch."""
    there = replace(profile, environment=replace(profile.environment, torch="2.0.0"))
    content, path = profile_text(there).encode(), path_of(there)
    index = Collection(profiles=(listed(there, content, path),))
    return {path: content, LIST: json.dumps(to_data(index)).encode()}


def is_no_worse(full: Run, near: Run) -> bool:
    """Whether the same won, or no step of the whole model is clearly slower with what won than with the full run's."""
    if near.winners == full.winners:
        return True
    none = (1.0, 1.0, 1.0)
    labels = full.steps.keys() | near.steps.keys()
    return all(near.steps.get(label, none)[1] <= full.steps.get(label, none)[2] for label in labels)


def told(full: Run, near: Run) -> str:
    """A turn in a few lines: the ratio, the winners of both, where the time went, what the steps take."""
    same = sum(near.winners.get(key) == winner for key, winner in full.winners.items())
    lines = [
        f"  {near.took_s / full.took_s:.2f} of the time, {near.cpu_s / full.cpu_s:.2f} of the processor time; "
        f"{same} of {len(full.winners)} winners are the same, {len(near.winners.keys() - full.winners.keys())} more"
    ]
    for name, run in (("full", full), ("near", near)):
        spent = ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in run.phases.items())
        steps = ", ".join(f"{label} {ratio:.3f}" for label, (ratio, _, _) in run.steps.items())
        shown = f"; ways for {run.calls} calls" if run.calls else ""
        lines.append(f"  {name}: {spent} s; {steps or f'the {ORIGINAL} everywhere'}{shown}")
    return "\n".join(lines)


def _page(where: str, command: str, found: Sequence[tuple[Run, Run]]) -> list[str]:
    return [
        "# Profiling from a neighbour's profile",
        "",
        f"Made by `python -m tests.bench.neighbour`: `twinkle-tune {command}`, in full and with `--from-hub`, in turn.",
        "",
        where,
        "",
        "| turn | full | from the neighbour | ratio | of the processor time | same winners |",
        "|---|---|---|---|---|---|",
        *(
            f"| {turn} | {full.took_s:.0f} s (load {full.load}) | {near.took_s:.0f} s (load {near.load}) | "
            f"{near.took_s / full.took_s:.2f} | {near.cpu_s / full.cpu_s:.2f} | "
            f"{sum(near.winners.get(key) == winner for key, winner in full.winners.items())} of {len(full.winners)} |"
            for turn, (full, near) in enumerate(found, start=1)
        ),
        "",
        "```text",
        *(told(full, near) for full, near in found),
        "```",
    ]


if __name__ == "__main__":
    sys.exit(main())
