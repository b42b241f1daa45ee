"""Profiling again with what is stored, and how well shares agree: figures of ``make bench``.

``python -m tests.bench.again`` measures them alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.bench.earlier import ROOT
from tests.bench.figure import Figure

ON_TOP_S, HALF, SPREAD = 5.0, 0.6, 1.15
SMALL = 0.05
"""Of a step: the shares of slots below this do not count, as nothing is decided by how small they are exactly."""
_MODEL = "qwen3-tiny"
_PROFILE = (sys.executable, "-m", "twinkle_tune.cli", "profile", _MODEL, "--device", "cpu", "--candidates", "torch")
_LOAD = f"""
from twinkle_tune.mode import Mode
from twinkle_tune.models import load_model

load_model({_MODEL!r}, "cpu", None, None, (1,), (128,), Mode.INFERENCE)
"""
_KERNELS = ("--seq-len", "128", "--no-ways")
_TWO = ("--seq-len", "128,96", "--no-ways")
_TURNS = 3


def second_run() -> Figure:
    """A run that finds everything in the store, less the loading of the model."""
    samples = tuple(turn["again"] - turn["load"] for turn in _turns())
    name = f"profile {_MODEL} --no-ways a second time, on top of loading the model"
    return Figure(name=name, unit="s", samples=samples, goal=ON_TOP_S)


def second_run_with_ways() -> Figure:
    """The same where ways of running the whole model compete, once."""
    with tempfile.TemporaryDirectory() as folder:
        _ran(folder, ())
        again_s, _ = _ran(folder, ())
        load_s, _ = _ran(folder, (), (sys.executable, "-c", _LOAD))
    name = f"profile {_MODEL} a second time, on top of loading the model"
    return Figure(name=name, unit="s", samples=(again_s - load_s,), goal=ON_TOP_S)


def half_in_common() -> Figure:
    """A run of two lengths of which one is in the store, over a run of both with an empty one."""
    samples = tuple(turn["half"] / turn["fresh"] for turn in _turns())
    name = f"profile {_MODEL} --no-ways with two lengths, one of them in the store"
    return Figure(name=name, unit="of the time with an empty store", samples=samples, goal=HALF)


def shares_agree() -> Figure:
    """Of each slot's share of a step, over the runs with empty stores: the largest over the smallest, the worst."""
    name = f"shares of {_TURNS} runs of {_MODEL}, the largest over the smallest, the worst slot"
    return Figure(name=name, unit="times", samples=(spread([t["shares"] for t in _turns()]),), goal=SPREAD)


def spread(runs: Sequence[Mapping[Any, float]]) -> float:
    """The largest over the smallest of what stands in all runs and is not small, the worst; 1 where nothing is."""
    common = [[run[key] for run in runs] for key in runs[0] if all(key in run for run in runs)]
    return max((max(each) / min(each) for each in common if max(each) >= SMALL), default=1.0)


AGAIN = (second_run, second_run_with_ways, half_in_common, shares_agree)


@cache
def _turns() -> tuple[dict[str, Any], ...]:
    return tuple(_turn() for _ in range(_TURNS))


def _turn() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        _ran(one, _KERNELS)
        again, _ = _ran(one, _KERNELS)
        load, _ = _ran(one, (), (sys.executable, "-c", _LOAD))
        half, _ = _ran(one, _TWO)
        fresh, profile = _ran(other, _TWO)
    return {"again": again, "load": load, "half": half, "fresh": fresh, "shares": _shares(profile)}


def _ran(folder: str, options: Sequence[str], command: Sequence[str] = _PROFILE) -> tuple[float, dict[str, Any]]:
    """Seconds of a command whose caches lie in a folder, and the profile that it wrote."""
    out = Path(folder, "p.json")
    further = (*options, "--out", str(out)) if command is _PROFILE else ()
    caches = {"XDG_CACHE_HOME": folder, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
    environment = {**os.environ, **caches, "PYTHONPATH": str(ROOT)}
    began_s = time.monotonic()
    subprocess.run([*command, *further], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    took_s = time.monotonic() - began_s
    return took_s, json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}


def _shares(profile: dict[str, Any]) -> dict[tuple[str, str], float]:
    """By slot and step."""
    found: dict[tuple[str, str], float] = {}
    for contest in profile["contests"]:
        for seen in contest["seen"]:
            key = contest["slot"]["name"], seen["step"]
            found[key] = found.get(key, 0.0) + seen["share"]
    return found


if __name__ == "__main__":
    figures = [measure() for measure in AGAIN]
    for turn in _turns():
        print({key: value if isinstance(value, dict) else round(value, 1) for key, value in turn.items()})
    for figure in figures:
        print(f"{figure.name}: {figure.text} ({'met' if figure.met else 'MISSED'}: {figure.goal_text})")
    sys.exit(not all(figure.met for figure in figures))
