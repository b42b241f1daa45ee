"""The memory of a whole profiling run at its peak: ``python -m tests.bench.peak``, and two figures of ``make bench``.

Of the command and the processes that it starts together, what they share counted once: half a real model with the
weights of four layers, float32, on the CPU. Beside it the commit before this was looked at, and a process that loads
the same model and runs a step.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.bench.earlier import BEFORE, ROOT, tree_of
from tests.bench.figure import Figure

GOAL, GOAL_OWN = 0.8, 1.6
_OPTIONS = ("qwen3-0.6b", "--layers", "4", "--device", "cpu", "--dtype", "float32", "--candidates", "torch")
_EVERY_S = 0.2
_STEP = """
import torch
from twinkle_tune.mode import Mode
from twinkle_tune.models import load_model

model = load_model("qwen3-0.6b", "cpu", "float32", 4, (1,), (128,), Mode.INFERENCE).model
with torch.inference_mode():
    model(input_ids=torch.ones(1, 128, dtype=torch.long))
"""


def over_earlier() -> Figure:
    """The whole run's peak over the earlier commit's."""
    unit = f"of commit {BEFORE}'s"
    with tree_of(BEFORE) as then:
        if then is None:
            return Figure(name=_name(), unit=unit, samples=(), goal=GOAL, skipped="skipped: shallow clone")
        earlier_mib = _profile_mib(then)
    return Figure(name=_name(), unit=unit, samples=(ours_mib() / earlier_mib,), goal=GOAL)


def over_own() -> Figure:
    """The whole run's peak over that of a process that runs the model once."""
    own_mib = peak_mib([sys.executable, "-c", _STEP], ROOT)
    return Figure(name=_name(), unit="of the model's own", samples=(ours_mib() / own_mib,), goal=GOAL_OWN)


PEAKS = (over_earlier, over_own)


def _name() -> str:
    return f"a whole run (profile {' '.join(_OPTIONS)}), peak memory"


@cache
def ours_mib() -> float:
    """This tree's peak, in MiB."""
    return _profile_mib(ROOT, "--no-ways")


def _profile_mib(tree: Path, *further: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "twinkle_tune.cli", "profile", *_OPTIONS, *further, "--out", str(Path(folder, "p.json"))]
        return peak_mib([sys.executable, *command], tree, XDG_CACHE_HOME=folder)


def peak_mib(command: Sequence[str], tree: Path, **variables: str) -> float:
    """Run a command in a tree; the most that it and its processes held at a time, in MiB: proportional set sizes."""
    environment = {**os.environ, "PYTHONPATH": str(tree), **variables}
    most_kib = 0
    with subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most_kib = max(most_kib, sum(_pss_kib(pid) for pid in _with_children(process.pid)))
            time.sleep(_EVERY_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return most_kib / 1024


def _with_children(pid: int) -> list[int]:
    found = [pid]
    # A process that ends meanwhile holds nothing any more.
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in Path(task, "children").read_text(encoding="ascii").split():
                found += _with_children(int(child))
    return found


def _pss_kib(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


if __name__ == "__main__":
    figures = [measure() for measure in PEAKS]
    for figure in figures:
        print(f"{figure.name}: {figure.text} ({'met' if figure.met else 'MISSED'}: {figure.goal_text})")
    sys.exit(not all(figure.met for figure in figures))
