"""A budget beside a candidate that hangs: ``python -m tests.bench.hangs [--budgets 30,90,300]``.

In turn one candidate hangs while it is imported, in its first call, in its 100th, in its backward, or is compiled for
minutes. The command must end in its budget, by a tenth of it and five seconds at most, and the good candidate must have
been tried. It ends with 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.earlier import ROOT
from tests.bench.page import made, made_line, write

WHERE = ("import", "first call", "100th call", "backward", "compile")
OVER, MOST_OVER_S = 1.1, 5.0
_MODEL = """
import time
import torch
from torch import nn


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(256))

    def forward(self, x):
        time.sleep(0.002)
        return x * self.weight


def make():
    return nn.Sequential(Scaled(), nn.Linear(256, 256)), torch.randn(64, 256)
"""
_REGISTER = """
from twinkle_tune import register_external_layer, register_layer_kernel
from users_model import Scaled

register_external_layer(Scaled, "Scaled")
for layer in ("Hangs", "Good"):
    package = "users_hanging" if layer == "Hangs" else "users_good"
    register_layer_kernel("Scaled", repo_path=".", package_name=package, layer_name=layer, device="cpu", mode="{mode}")
"""
_GOOD = """
from torch import nn


class Good(nn.Module):
    def forward(self, x):
        return x * self.weight
"""
_HANGING = """
import time
import torch
from torch import nn

WHERE = {where!r}
if WHERE == "import":
    time.sleep(1e6)
calls = 0


class Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, grad):
        time.sleep(1e6)


class Hangs(nn.Module):
    def forward(self, x):
        global calls
        calls += 1
        if WHERE == "compile" and calls == 1:
            ends_s = time.monotonic() + 240
            while time.monotonic() < ends_s:
                pass
        if WHERE == "first call" or (WHERE == "100th call" and calls >= 100):
            time.sleep(1e6)
        if WHERE == "backward" and torch.is_grad_enabled():
            return Back.apply(x, self.weight)
        return x * self.weight
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the command.

    Attributes:
        where: the candidate hangs.
        budget_s: what the run was given.
        wall_s: seconds that the whole command took, with imports and loading the model.
        took_s: seconds of the run itself, which the budget is for.
        load: the machine's load average of a minute when it began.
        good, hanging: what became of the two candidates.
    """

    where: str
    budget_s: float
    wall_s: float
    took_s: float
    load: float
    good: str
    hanging: str

    @property
    def holds(self) -> bool:
        """Whether it ended in time, and tried the good one."""
        most_s = min(self.budget_s * OVER, self.budget_s + MOST_OVER_S)
        return self.took_s <= most_s and self.good == "measurement"


def ran(where: str, budget_s: float) -> Run:
    """Run the command in an empty folder, with an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        mode = "train" if where == "backward" else "inference"
        files = {
            "users_model.py": _MODEL,
            "users_kernels.py": _REGISTER.format(mode=mode),
            "users_good/__init__.py": "",
            "users_good/layers.py": _GOOD,
            "users_hanging/__init__.py": "",
            "users_hanging/layers.py": _HANGING.format(where=where),
        }
        for name, text in files.items():
            Path(folder, name).parent.mkdir(exist_ok=True)
            Path(folder, name).write_text(text, encoding="utf-8")
        load, began_s = os.getloadavg()[0], time.monotonic()
        chosen = "--device cpu --register users_kernels.py --candidates local --no-ways"
        options = f"--mode {mode} {chosen} --budget {budget_s:g}s"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "twinkle_tune.cli",
                "profile",
                "users_model:make",
                *options.split(),
                "--out",
                "p.json",
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "XDG_CACHE_HOME": folder},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        wall_s = time.monotonic() - began_s
        profile: Any = json.loads(Path(folder, "p.json").read_text(encoding="utf-8"))
    found = {t["candidate"]: t["outcome"] for c in profile["contests"] for t in c["trials"]}

    def told(name: str) -> str:
        outcome = next((outcome for candidate, outcome in found.items() if name in candidate), {"kind": "not tried"})
        return " ".join(str(outcome[key]) for key in ("kind", "cause") if key in outcome)

    return Run(
        where=where,
        budget_s=budget_s,
        wall_s=round(wall_s, 1),
        took_s=profile["run"]["took_s"],
        load=round(load, 1),
        good=told("good"),
        hanging=told("hanging"),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them all and write the page; 1 where one does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hangs", description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", default="30,90,300", help="seconds, separated by commas")
    parser.add_argument("--where", default=",".join(WHERE), help="which of them, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    asked = parser.parse_args(arguments)
    runs = []
    for budget in asked.budgets.split(","):
        for where in asked.where.split(","):
            runs.append(ran(where, float(budget)))
            print(f"{'holds' if runs[-1].holds else 'DOES NOT HOLD'}: {runs[-1]}", flush=True)
    facts = made("cpu")
    data = {**facts, "held": sum(run.holds for run in runs), "runs": [asdict(run) for run in runs]}
    write(asked.out, "hangs", data, _page(facts, runs))
    return 0 if all(run.holds for run in runs) else 1


def _page(facts: dict[str, Any], runs: Sequence[Run]) -> list[str]:
    return [
        "# Budgets beside a candidate that hangs", "",
        "Made by `python -m tests.bench.hangs`.", "",
        made_line(facts), "",
        "| it hangs in | budget | run | whole command | load | the good one | the hanging one | holds |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {r.where} | {r.budget_s:g} s | {r.took_s:g} s | {r.wall_s:g} s | {r.load:g} | {r.good} | {r.hanging} | "
            f"{'yes' if r.holds else 'NO'} |"
            for r in runs
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
