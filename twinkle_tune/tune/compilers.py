"""Compilers that a process has started: ended so that they take their temporary files with them (on Linux)."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_COMPILERS = re.compile(r"(.*-)?(g\+\+|gcc|c\+\+|cc|clang(\+\+)?)(-\d+)?|cc1(plus)?|as|ld|collect2|nvcc|cicc|ptxas")
_WAIT_S = 3.0
"""At most: on a busy machine a compiler that was asked to end may have no turn for a second."""


def end_compilers(of: int) -> None:
    """Ask the compilers below a process to end, and wait for a moment until they have.

    A compiler that is killed leaves its temporary files, and one whose parent is killed goes on: what runs after the
    process is to be ended with SIGTERM first. No other process is touched.

    Args:
        of: the process's id.
    """
    found = [child for child in _below(of) if _COMPILERS.fullmatch(_name(child))]
    # The compiler proper before its driver: it would write the file anew that the driver has just removed.
    for compiler in reversed(found):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(compiler, signal.SIGTERM)
    ends_s = time.monotonic() + _WAIT_S
    while any(map(_is_running, found)) and time.monotonic() < ends_s:
        time.sleep(0.005)


def _below(process: int) -> Iterator[int]:
    """All that a process has started and that its children have; nothing where the system does not tell."""
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, tasks.read_text().split()):
                yield child
                yield from _below(child)


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def _is_running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
