"""Runs whose outcomes are known: an executor that measures nothing, and a script that kills runs.

``python -m tests.tune.pretended FOLDER KILLS SEED`` kills runs with SIGKILL at so many random moments, lets each go
on with its journal (some are killed again), and prints as JSON what it found.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.tune.toy import Norm, norm
from twinkle_tune.capture.step import Step
from twinkle_tune.errors import TuneError
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.kernel.functions import original_function
from twinkle_tune.outcome import Measurement, Outcome, Rejection, Selection, Trial
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.outcomes import Outcomes
from twinkle_tune.profile.schema import Contest, Profile, StepResult
from twinkle_tune.tune.events import Listener
from twinkle_tune.tune.executor import Executor
from twinkle_tune.tune.journal import Journal, journal_path, read_journal
from twinkle_tune.tune.task import Task

tune_module: Any = importlib.import_module("twinkle_tune.tune.tune")
settle_module: Any = importlib.import_module("twinkle_tune.tune.settle")
WIDTHS = (8, 16, 24, 32, 40, 48)
_TIMES_US = 8
_PAUSE_S = 0.004


class Quick(Norm):
    """A norm that does not spin."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) to (..., width)."""
        return norm(self, x)


class Wide(nn.Module):
    """Norms of several widths: as many contests."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.widths = widths
        self.norms = nn.ModuleList(Quick(width) for width in widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, widest) to (rows,)."""
        parts = [each(x[:, :width]).sum(-1) for width, each in zip(self.widths, self.norms, strict=True)]
        return torch.stack(parts).sum(0)


def fast(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A contestant."""
    return norm(self, x)


def other(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Another contestant."""
    return norm(self, x) * 1.0


def registry() -> Registry:
    """One in which both compete for the norms."""
    made = Registry()
    register_external_layer(Quick, "Quick", registry=made)
    register_layer_kernel("Quick", layer_impl=fast, device="cpu", registry=made)
    register_layer_kernel("Quick", layer_impl=other, device="cpu", registry=made)
    return made


class Pretended(Executor):
    """Outcomes that follow from the workload's key and the candidates' digests alone."""

    def __init__(self, pause_s: float = 0.0, *, luck: str = "") -> None:
        self.pause_s = pause_s
        self.luck = luck
        self.held: list[str] = []

    def hold(self, task: Task, listener: Listener) -> Contest:
        """A contest with invented times; a second race says the same."""
        if task.again:
            return self._invented(task)
        time.sleep(self.pause_s)
        self.held.append(task.observation.workload.key)
        return self._invented(task)

    def _invented(self, task: Task) -> Contest:
        seen = task.observation
        trials = tuple(_trial(task, index, self.luck) for index in range(len(task.candidates)))
        measured = {t.candidate: t.outcome.times_us[0] for t in trials if isinstance(t.outcome, Measurement)}
        best = min(measured, key=lambda name: measured[name])
        ratio = round(measured[best] / measured["original"], 4)
        won = Selection(winner=best, ratio=ratio, low=ratio, high=ratio, rounds=_TIMES_US, reason="invented")
        return Contest(
            slot=seen.slot,
            instances=seen.instances,
            seen=seen.seen,
            workload=seen.workload,
            trials=trials,
            selection=won if ratio < 1 else Selection(winner="original", reason="invented"),
        )

    @property
    def elsewhere(self) -> str:
        """Nowhere."""
        return "in another dream"


def _trial(task: Task, index: int, luck: str) -> Trial:
    seen, candidate = task.observation, task.candidates[index]
    original = _original(task)
    digest = candidate.source.digest(seen.slot, original)
    chance = random.Random(f"{luck}{seen.workload.key} {digest}")
    outcome: Outcome = Measurement(times_us=(round(chance.uniform(50, 150), 3),) * _TIMES_US, first_call_us=1.0)
    if index and chance.random() < 0.2:
        outcome = Rejection(stage="parity", reason="invented")
    return Trial(candidate=candidate.name, source=candidate.source.kind, digest=digest, outcome=outcome)


def _original(task: Task) -> Any:
    seen = task.observation
    return Quick.forward if seen.module is not None else original_function(seen.slot.target)


def _untimed(model: nn.Module, steps: list[Step], *rest: object, **options: object) -> tuple[StepResult, ...]:
    return tuple(StepResult(label=step.label) for step in steps)


def pretended_profile(
    executor: Pretended,
    journal: Journal | None = None,
    store: Outcomes | None = None,
    model: nn.Module | None = None,
    **options: Any,
) -> Profile:
    """A profile of :class:`Wide` with invented outcomes; the whole model is not timed."""
    timed = settle_module.time_steps
    settle_module.time_steps = _untimed
    torch.manual_seed(0)
    try:
        made: Profile = tune_module.tune_model(
            model or Wide(),
            torch.randn(4, max(WIDTHS)),
            **{"registry": registry(), "candidates": ["impl"], **options},
            executor=executor,
            journal=journal,
            store=store,
        )
        return made
    finally:
        settle_module.time_steps = timed


def selections(profile: Profile) -> list[tuple[str, Selection]]:
    """What was chosen for each workload."""
    return [(contest.workload.key, contest.selection) for contest in profile.contests]


def _run(path: Path) -> None:
    journal = Journal(journal_path(path), resume=True)
    pretended_profile(Pretended(pause_s=_PAUSE_S), journal).save(path)
    journal.remove()


def _forked(path: Path, kill_at: tuple[int, float] | None = None) -> int:
    """A run in a process of its own; its exit status (negative: the signal).

    It is killed so many seconds after so many more lines stand in its journal, if it has not ended by then: a moment
    told by the clock alone comes before every contest where the machine is slow to start it.
    """
    journal = journal_path(path)
    expected_lines = _lines(journal) + kill_at[0] if kill_at is not None else 0
    child = os.fork()
    if child == 0:
        try:
            _run(path)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    ended, status = 0, 0
    if kill_at is not None:
        while not ended and _lines(journal) < expected_lines:
            time.sleep(0.0005)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            time.sleep(kill_at[1])
            os.kill(child, signal.SIGKILL)
    if not ended:
        status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


def _lines(path: Path) -> int:
    """How many whole lines a file has; none where there is no file."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _problems(path: Path) -> list[str]:
    """What is there must be whole: a profile that loads or none, a journal that is read or none."""
    found = []
    try:
        if path.exists():
            load_profile(path)
        read_journal(journal_path(path))
    except TuneError as error:
        found.append(str(error))
    return found


def _main(folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    _run(folder / "first.json")  # here, so that what it imports is there in every fork
    load_profile(folder / "first.json")
    _forked(folder / "whole.json")
    expected = selections(load_profile(folder / "whole.json"))
    chance = random.Random(seed)
    told: dict[str, Any] = {"killed": 0, "resumed": 0, "problems": [], "different": 0, "left": []}
    number = 0
    while told["killed"] < kills:
        number += 1
        path = folder / str(number) / "p.json"
        path.parent.mkdir()
        for _ in range(1 + chance.randrange(2)):
            moment = (chance.randrange(len(WIDTHS)), chance.uniform(0.0, 2 * _PAUSE_S))
            told["killed"] += _forked(path, moment) == -signal.SIGKILL
            told["problems"] += _problems(path)
            kept = read_journal(journal_path(path))
            told["resumed"] += bool(kept is not None and kept.contests)
        if _forked(path) != 0:
            told["problems"].append(f"run {number} could not go on")
            continue
        told["different"] += selections(load_profile(path)) != expected
        told["left"] += [file.name for file in path.parent.iterdir() if file.suffix != ".tmp" and file != path]
    print(json.dumps(told))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
