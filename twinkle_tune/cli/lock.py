"""One run at a time on a device, and for a profile: locks that end with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from twinkle_tune.errors import TuneError
from twinkle_tune.profile.folders import make_private, temporary_folder, usable_folder

_POLL_S = 0.2


class LockError(TuneError):
    """Another run has the device or the profile, or the lock cannot be taken."""


@contextmanager
def held(what: str, path: Path, *, command: str, wait: bool, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock; the file says who has it, and stays when it is let go.

    The lock is the kernel's (flock): it is gone with the process, however that ends. On Linux removing the file lets
    nobody else in.

    Args:
        what: what is locked, for messages ("device cpu").
        path: the lock's file.
        command: what holds it, for those who wait.
        wait: whether to wait for another run; if not, that is an error.
        tell: is given a line when waiting begins.

    Raises:
        LockError: another run has it and ``wait`` is not set, or the file cannot be had.
    """
    file, claim = _taken(what, path, wait=wait, tell=tell)
    try:
        # For those who wait alone: on a full disk the lock is held all the same.
        with suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps({"pid": os.getpid(), "command": command}).encode(), 0)
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(file, 0)
    finally:
        if claim is not None:
            claim.close()
        os.close(file)


def lock_path(name: str, tell: Callable[[str], None]) -> Path:
    """The file of a lock of this machine: in the user's cache folder, or where none can be kept, in the temporary one.

    Args:
        name: of the lock, any text.
        tell: is given a line where it is in the temporary one.

    Raises:
        TuneError: it can be kept in neither.
    """
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{platform.node()}-{name}")[:80]
    file = f"{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}.lock"
    folder = usable_folder(tell)
    return (folder if folder == temporary_folder() else folder / "locks") / file


def _taken(what: str, path: Path, *, wait: bool, tell: Callable[[str], None]) -> tuple[int, socket.socket | None]:
    """The lock's open file, locked and still the one at its path, and the name claimed besides."""
    told = False

    def tell_once(line: str) -> None:
        nonlocal told
        if not told:
            tell(line)
        told = True

    while True:
        try:
            make_private(path.parent)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise LockError(
                f"{path}: the lock of {what} cannot be taken ({error}); set TWINKLE_TUNE_CACHE to a folder of yours"
            ) from error
        try:
            _take(what, file, wait=wait, tell=tell_once)
            # Whoever waited may have waited for a file that was removed meanwhile: another has locked the new one.
            if _is_at(file, path):
                claim, is_free = _claim(path)
                if is_free:
                    return file, claim
                if not wait:
                    raise LockError(f"{what} is in use by another run, whose lock file was removed; wait for its end")
                tell_once(f"waiting: {what} is in use by another run, whose lock file was removed")
                time.sleep(_POLL_S)
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        there, ours = path.lstat(), os.fstat(file)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _claim(path: Path) -> tuple[socket.socket | None, bool]:
    """Hold the lock's name in the kernel as well: a file can be removed under its holder (a cache that is cleaned).

    Linux alone has such names; they are gone with the process, and seen by the processes of one network namespace.

    Returns:
        What holds the name, None where there are no such names; and whether the lock may be taken.
    """
    if sys.platform != "linux":
        return None, True
    name = f"\0twinkle_tune-{hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()}"
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(name)
        claim.listen(1)
    except OSError as error:
        claim.close()
        # Any user can take any name: only a process of this user's is a run.
        return None, error.errno != errno.EADDRINUSE or not _is_mine(name)
    return claim, True


def _is_mine(name: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
        asker.setblocking(False)
        try:
            asker.connect(name)
        except BlockingIOError:  # several ask already
            return True
        except OSError:  # gone meanwhile, or about to listen
            return True
        _, uid, _ = struct.unpack("3i", asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return bool(uid == os.geteuid())


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
