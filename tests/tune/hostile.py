"""Candidates that do to their process what no candidate should."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.tune.toy import norm, spin


def fine(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Right and fast."""
    spin(20)
    return norm(self, x)


def rough(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Wrong by one percent."""
    return norm(self, x) * 1.01


def segfault(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Reads address 0."""
    ctypes.string_at(0)
    return norm(self, x)


def abort(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Aborts with a last line."""
    print("assertion failed: tile fits", flush=True)
    os.abort()


def exit_at_once(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Ends the process without a word."""
    os._exit(3)


def leave(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Ends the program, as a script does."""
    sys.exit(4)


def interrupt(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Raises what Ctrl-C raises."""
    raise KeyboardInterrupt


class Doom(BaseException):
    """No Exception."""


def doom(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Raises what ``except Exception`` lets pass."""
    raise Doom("the end")


def killed(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Ends as the system's memory killer would end it."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return norm(self, x)


def endless(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Never returns, and is busy."""
    while True:
        pass


def deadlock(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Takes a lock twice."""
    lock = threading.Lock()
    with lock, lock:
        return norm(self, x)


_hoard: list[torch.Tensor] = []


def hoard(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Takes all memory there is and keeps it."""
    while True:
        _hoard.append(torch.empty(64 << 18))


def flood(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Right, but prints a megabyte a call to each stream."""
    for stream in (sys.stdout, sys.stderr):
        stream.write("noise " * 30_000 + "\n")
        stream.flush()
    return norm(self, x)


def flood_and_die(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Prints twenty megabytes, then aborts."""
    sys.stdout.write("noise " * 3_500_000)
    sys.stdout.flush()
    os.abort()


def threads(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Leaves a busy thread behind."""
    threading.Thread(target=spin, args=(60e6,), name="busy", daemon=True).start()
    return norm(self, x)


def dtype(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Sets the default dtype."""
    torch.set_default_dtype(torch.float64)
    return norm(self, x)


def grad_mode(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Switches the gradient mode."""
    torch.set_grad_enabled(not torch.is_grad_enabled())
    return norm(self, x)


def seed(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Seeds everybody's random numbers."""
    torch.manual_seed(1234)
    return norm(self, x)


def backend(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Switches a backend off."""
    mkldnn: Any = torch.backends.mkldnn
    mkldnn.enabled = False
    return norm(self, x)


def fewer_threads(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Takes the threads from the others."""
    torch.set_num_threads(torch.get_num_threads() + 1)
    return norm(self, x)


def silu(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Replaces a function of torch."""
    torch.nn.functional.silu = torch.nn.functional.relu
    return norm(self, x)


def tensor_method(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Puts a method before that of torch's tensors."""
    patched: Any = torch.Tensor
    patched.sum = lambda tensor: tensor
    return norm(self, x)


def clock(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Stops the clock."""
    time.perf_counter = lambda: 0.0
    return norm(self, x)


def fork(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Goes on as two processes, of which the second one returns as well."""
    os.fork()
    return norm(self, x)


def close_all(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Closes every file of the process."""
    os.closerange(3, 256)
    return norm(self, x)


_calls = 0


def late(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Right for forty calls, and then the process is gone."""
    global _calls
    _calls += 1
    if _calls > 40:
        os._exit(5)
    return norm(self, x)


def late_dtype(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Right for forty calls, and then sets the default dtype."""
    global _calls
    _calls += 1
    if _calls > 40:
        torch.set_default_dtype(torch.float64)
    return norm(self, x)


damaged = False


def damage(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Right, but what it leaves in memory is the end of another after a while."""
    global damaged, _calls
    _calls += 1
    damaged = _calls > 40
    return norm(self, x)


def brood(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Holds on for long."""
    time.sleep(1e6)
    return norm(self, x)


_child: list[subprocess.Popen[bytes]] = []


def parent(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Starts a process that would outlive everybody, once, and writes its id down."""
    if not _child:
        _child.append(subprocess.Popen(["sleep", "100000"]))
        Path(os.environ["TWINKLE_TUNE_TEST_NOTE"]).write_text(str(_child[0].pid), encoding="ascii")
    return norm(self, x) * 1.01  # refused, so that it is never bound in the process of the run


def fast_doubled(x: torch.Tensor) -> torch.Tensor:
    """Twice the input, at once."""
    return x + x


def corrupts(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Reads beyond a tensor on the device, after which the process can not use that any more."""
    far = torch.full((1,), 1 << 40, dtype=torch.long, device=x.device)
    return norm(self, x) + x[far].sum() * 0


def device_hoard(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Takes all of the device's memory and keeps it."""
    while True:
        _hoard.append(torch.empty(64 << 18, device=x.device))


def side_stream(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Right, and leaves work on a stream of its own behind that takes some milliseconds."""
    cuda: Any = torch.cuda
    # One stream for all calls: on one of its own each call's work would overlap with the others', and cost less.
    if not hasattr(side_stream, "stream"):
        side_stream.stream = cuda.Stream()  # type: ignore[attr-defined]
    with cuda.stream(side_stream.stream):  # type: ignore[attr-defined]
        cuda._sleep(10_000_000)
    return norm(self, x)


def late_hang(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Right and fast, until its further times are taken, when it comes back no more."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == "further_times":
            time.sleep(3600)
    return norm(self, x)
