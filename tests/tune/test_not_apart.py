"""Contests that a worker process cannot hold are held in the process of the run, which says so."""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tune.test_isolated import TIGHT, UNWON, outcomes, registry_of, tuned
from tests.tune.toy import Norm, norm
from twinkle_tune.outcome import Measurement
from twinkle_tune.tune import isolated
from twinkle_tune.tune.isolated import Isolated


class Homesick(Norm):
    """Raises in any process but the one that it was made in, as where there is no room beside the model."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.home = os.getpid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As its parent's."""
        if os.getpid() != self.home:
            raise RuntimeError("not here")
        return super().forward(x)


def quick(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Right, and fast."""
    return norm(self, x)


def test_an_original_that_raises_in_the_worker_alone_is_tried_here() -> None:
    """It ran when it was captured: what it raises elsewhere must not end the run."""
    made = tuned(registry_of(quick, cls=Homesick), model=nn.Sequential(Homesick(16)), settings=UNWON)
    (contest,) = made.contests
    assert isinstance(outcomes(contest)["quick"], Measurement)
    assert "not apart: in a worker process the original raised RuntimeError: not here" in contest.selection.reason


def test_a_file_that_cannot_be_run_twice_is_tried_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered file whose code fails, or exits, when the worker runs it again does not end the run."""
    path = tmp_path / "once.py"
    path.write_text(
        f"import os, sys\nif os.getpid() != {os.getpid()}:\n    sys.exit('only once')\n"
        "from tests.tune.toy import norm\n\ndef mine(self, x):\n    return norm(self, x)\n",
        encoding="utf-8",
    )
    spec = importlib.util.spec_from_file_location("twinkle_tune_registered_once", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec.loader.exec_module(module)
    (contest,) = tuned(registry_of(module.mine), settings=UNWON).contests
    assert isinstance(outcomes(contest)["mine"], Measurement)
    assert "not apart: " in contest.selection.reason


def test_no_room_for_the_call_is_tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the temporary file cannot be written the contest is held here, and its reason says what to do."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(isolated, "pack", full)
    with Isolated(TIGHT) as executor:
        (contest,) = tuned(registry_of(quick), executor=executor).contests
        assert executor.pid is None
    assert contest.selection.winner == "impl:quick"
    assert "No space left on device); make room, or point TMPDIR elsewhere" in contest.selection.reason
