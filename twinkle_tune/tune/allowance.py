"""How much memory a worker process may take, of the machine's and of a device's."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import torch

from twinkle_tune.tune.limits import Limits

_FREE_SHARE = 0.9


def limit_host(limits: Limits, device: str) -> int | None:
    """Limit what the process may take; and no core files, which would be as large.

    Returns:
        The limit in bytes; None where there is none.
    """
    with contextlib.suppress(ValueError, OSError):  # a stricter limit is in force already
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return None
    # What a driver reserves for a device is beyond what can be foretold: there only a limit that was asked for holds.
    wanted = limits.host_bytes or (free_bytes() if device == "cpu" else None)
    if wanted is None:
        return None
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    # Private memory only: address space that is merely reserved is none.
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
    return wanted


def limit_device(limits: Limits) -> int:
    """Limit what torch's allocator may take of the present CUDA device, on which the task is already.

    Returns:
        The limit in bytes.
    """
    free, total = torch.cuda.mem_get_info()
    allowed = device_allowance(limits, free=free, held=torch.cuda.memory_reserved(), total=total)
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    return allowed


def device_allowance(limits: Limits, *, free: int, held: int, total: int) -> int:
    """Bytes of a device's memory that a process may take: what was asked for, or what it holds and most of the rest."""
    wanted = held + int(_FREE_SHARE * free) if limits.device_bytes is None else limits.device_bytes
    return min(wanted, total)


def free_bytes() -> int | None:
    """Nine tenths of what the machine, or the container, has free; None where the system does not tell."""
    free = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        free.append(limit - int((group / "memory.current").read_text(encoding="ascii")))
    return int(_FREE_SHARE * min(free)) if free else None
