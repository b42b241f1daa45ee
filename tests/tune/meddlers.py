"""Right and fast candidates that change their process in ways that a worker process must refuse or undo."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

from tests.tune.toy import norm


def denormal(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Flushes denormal numbers."""
    torch.set_flush_denormal(True)
    return norm(self, x)


def nicer(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Lowers the priority."""
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    return norm(self, x)


def collects(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Has garbage collected more often."""
    gc.set_threshold(50)
    return norm(self, x)


def handler(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Handles a signal."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    return norm(self, x)


def elsewhere(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Moves to another directory."""
    os.chdir("/")
    return norm(self, x)


def umask(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Makes files that nobody else reads."""
    os.umask(0o777)
    return norm(self, x)


def environment(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Leaves a variable."""
    os.environ["TWINKLE_TUNE_TEST_LEFT"] = "1"
    return norm(self, x)


def filters(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Silences all warnings."""
    warnings.simplefilter("ignore")
    return norm(self, x)


def path(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Has modules found elsewhere."""
    if "/left-behind" not in sys.path:
        sys.path.insert(0, "/left-behind")
    return norm(self, x)


def writes(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Writes a file."""
    Path("left-behind-by-a-candidate").touch()
    return norm(self, x)


REFUSED = (denormal, nicer, collects, handler, elsewhere, umask)
UNDONE = (environment, filters, path, writes)
ALL = (*REFUSED, *UNDONE)
