"""One run at a time on a device, and for a profile: locks that end with the process that holds them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twinkle_tune.errors import TuneError
from twinkle_tune.profile.folders import cache_folder, make_private


class LockError(TuneError):
    """Another run has the device or the profile, or the lock cannot be taken."""


@contextmanager
def held(what: str, path: Path, *, command: str, wait: bool, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock; the file says who has it, and stays when it is let go.

    The lock is the kernel's (flock): it is gone with the process, however that ends.

    Args:
        what: what is locked, for messages ("device cpu").
        path: the lock's file.
        command: what holds it, for those who wait.
        wait: whether to wait for another run; if not, that is an error.
        tell: is given a line when waiting begins.

    Raises:
        LockError: another run has it and ``wait`` is not set, or the file cannot be had.
    """
    try:
        make_private(path.parent)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LockError(
            f"{path}: the lock of {what} cannot be taken ({error}); set TWINKLE_TUNE_CACHE to a folder of yours"
        ) from error
    try:
        _take(what, file, wait=wait, tell=tell)
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"pid": os.getpid(), "command": command}).encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(file, 0)
    finally:
        os.close(file)


def lock_path(name: str) -> Path:
    """The file of a lock of this machine: in the user's cache folder, or where none can be made, in the temporary one.

    Args:
        name: of the lock, any text.
    """
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{platform.node()}-{name}")[:80]
    file = f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.lock"
    folder = cache_folder() / "locks"
    if _can_be_made(folder):
        return folder / file
    return Path(tempfile.gettempdir(), f"twinkle_tune-{os.getuid()}", file)


def _take(what: str, file: int, *, wait: bool, tell: Callable[[str], None]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(file)
        if not wait:
            raise LockError(
                f"{what} is in use by another run{holder}; wait for its end, or leave out --no-wait"
            ) from error
        tell(f"waiting: {what} is in use by another run{holder}")
        fcntl.flock(file, fcntl.LOCK_EX)  # a signal ends the waiting


def _holder(file: int) -> str:
    # The file's text is for people alone: whatever it is, the lock is held.
    try:
        data: Any = json.loads(os.pread(file, 4096, 0))
        return f" (process {int(data['pid'])}: {str(data['command'])[:200]})"
    except (ValueError, KeyError, TypeError):
        return ""


def _can_be_made(folder: Path) -> bool:
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
