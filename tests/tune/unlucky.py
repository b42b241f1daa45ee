"""Candidates that are right, and meet once what others did to the machine just then."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tests.tune.toy import norm, spin

ONCE = "TWINKLE_TUNE_TESTS_ONCE"
"""Environment variable: the file that the one says who was killed before."""


def killed_once(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Is ended as the system's memory killer ends a process, the first time."""
    before = Path(os.environ[ONCE])
    if not before.exists():
        before.touch()
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    spin(20)
    return norm(self, x)


def short_at(
    calls: Callable[[int, torch.Tensor], bool], error: Exception
) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """A right norm that raises in the calls, counted from 1, that ``calls`` says, of its number and input."""
    made = 0

    def unlucky(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        nonlocal made
        made += 1
        if calls(made, x):
            raise error
        spin(20)
        return norm(self, x)

    return unlucky
