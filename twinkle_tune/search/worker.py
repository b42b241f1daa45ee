"""Who tries a config, and whether they still may: the workers of a search that several share."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

LEASE_S = 120.0
"""So long after it was first seen a worker of another machine may be at one config; then it counts as gone."""


def worker_name() -> str:
    """A name that no other worker has: machine, process, when that began, and something drawn."""
    return f"{_machine()}/{os.getpid()}/{_began(os.getpid())}/{secrets.token_hex(4)}"


def has_ended(worker: str) -> bool:
    """Whether a worker's process is known to be over. Of one on another machine nothing is known."""
    machine, _, rest = worker.partition("/")
    parts = rest.split("/")
    if machine != _machine() or len(parts) != 3 or not parts[0].isdigit() or not parts[1]:
        return False
    began = _began(int(parts[0]))
    if began:
        return began != parts[1]
    try:
        os.kill(int(parts[0]), 0)
    except PermissionError:  # another user's, whose processes are hidden
        return False
    except OSError:
        return True
    return True  # over, and not yet waited for


class Leases:
    """Which of the configs that others are trying may still come to an end. By this process's own clock."""

    def __init__(self) -> None:
        self._seen_s: dict[int, float] = {}

    def living(self, claims: Iterable[tuple[int, str]]) -> set[int]:
        """Those, of claims with their number and worker."""
        now_s = time.monotonic()
        return {
            number
            for number, worker in claims
            if now_s - self._seen_s.setdefault(number, now_s) < LEASE_S and not has_ended(worker)
        }


def _machine() -> str:
    """The machine since it was started, and what its process numbers hold in: a container has its own."""
    parts = [socket.gethostname().replace("/", "-")]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return ":".join(parts)


def _began(process: int) -> str:
    """When a process began, in the kernel's ticks; "" where there is none, or that cannot be known."""
    with suppress(OSError):
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""
