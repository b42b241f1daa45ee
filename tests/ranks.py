"""Ranks of a job on this machine: processes that are forked and talk through gloo, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[1]
Told = dict[str, Any]
Cases = Mapping[str, Callable[[int], Told]]
Each = list[Told]
"""What a case told on each rank."""


def cases_of(*cases: Callable[[int], Told]) -> Cases:
    """Cases by their names."""
    return {case.__name__: case for case in cases}


def run_cases(module: str, cases: Cases, world: int, folder: Path) -> dict[str, Each]:
    """What came of each case, rank by rank; a rank that waits for another for ever would end it by its time.

    ``module`` is run as a program, and calls :func:`forked`.
    """
    asked = [sys.executable, "-m", module, str(folder)]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-5000:]
    ranks = [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(world)]
    return {name: [rank[name] for rank in ranks] for name in cases}


def forked(cases: Cases, world: int, folder: Path) -> int:
    """Fork the ranks, which have imported everything then, run all cases in each, and wait for them."""
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            code = 1
            try:
                _run(cases, rank, world, folder)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def _run(cases: Cases, rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    try:
        found = {name: case(rank) for name, case in cases.items()}
    finally:
        dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
