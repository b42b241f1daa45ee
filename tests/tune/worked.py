"""Kernels that do a given amount of work, and a clock that counts the work of its own thread: others' costs nothing.

For tests of who wins in worker processes: on a busy machine the clock on the wall runs on while others have the core.
In a worker this module puts its clock in the place of the tool's when it is imported, in the test's own process a test
does (:func:`own_clock`).
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from tests.tune.toy import Norm, norm
from twinkle_tune.measure import clock

if TYPE_CHECKING:
    import pytest

HOME, FIRST = "TWINKLE_TUNE_TEST_HOME", "TWINKLE_TUNE_TEST_FIRST_PROCESS"


def own_clock(monkeypatch: pytest.MonkeyPatch, first: Path) -> None:
    """Time is work from here on, in this process and in the workers that it starts; ``first`` is for lucky_once."""
    monkeypatch.setenv(HOME, str(os.getpid()))
    monkeypatch.setenv(FIRST, str(first))
    monkeypatch.setattr(clock, "_now_ns", time.thread_time_ns)


if os.environ.get(HOME, str(os.getpid())) != str(os.getpid()):
    clock._now_ns = time.thread_time_ns  # type: ignore[attr-defined]


def work(time_us: float) -> None:
    """Use the processor for so many microseconds."""
    end_ns = time.thread_time_ns() + int(time_us * 1000)
    while time.thread_time_ns() < end_ns:
        pass


class Worked(Norm):
    """A norm that is 200 µs of work."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) to (..., width)."""
        work(200)
        return norm(self, x)


def lucky_once(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Fast in the first process that calls it, slower than the original in any other."""
    work(20 if _is_first(os.environ[FIRST], os.getpid()) else 400)
    return norm(self, x)


@functools.cache  # a file takes longer to read than the calls that are compared
def _is_first(path: str, pid: int) -> bool:
    mark = Path(path)
    if not mark.exists():
        mark.write_text(str(pid), encoding="ascii")
    return mark.read_text(encoding="ascii") == str(pid)


def steady(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A quarter of the original's work, in every process and wherever it is called."""
    work(50)
    return norm(self, x)
