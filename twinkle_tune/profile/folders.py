"""The user's own folder for what may be lost: past outcomes and locks."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from twinkle_tune.errors import TuneError

CACHE_VARIABLE = "TWINKLE_TUNE_CACHE"
"""Environment variable: the folder itself. Default: ``twinkle_tune`` in XDG_CACHE_HOME or ``~/.cache``."""

_ROOM_BYTES = 1 << 14


def cache_folder() -> Path:
    """Where the store and the locks are; not made. Where no home is known, a folder among the temporary files."""
    try:
        return _wanted()
    except RuntimeError:
        return temporary_folder()


def usable_folder(tell: Callable[[str], None]) -> Path:
    """The cache folder, made; where nothing can be kept in it, one of the user's among the temporary files.

    No home, a home that cannot be written, and a full disk must not keep anyone from profiling.

    Args:
        tell: is given a line where it is not the one that was meant.

    Raises:
        TuneError: the temporary one cannot be used either, or is somebody else's.
    """
    try:
        folder = _wanted()
        _try(folder)
    except RuntimeError as error:
        why = str(error)
    except OSError as error:
        # Without the file's name, which is another one each time: what is told twice is told once.
        why = f"{folder}: {error.strerror or error}"
    else:
        return folder
    other = temporary_folder()
    try:
        _try(other)
        there = other.lstat()
        if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid() or there.st_mode & 0o022:
            raise PermissionError("it belongs to somebody else")
    except OSError as error:
        raise TuneError(
            f"{other}: locks cannot be kept there ({error}), nor in the cache folder ({why}); set {CACHE_VARIABLE} to "
            "a folder of yours"
        ) from error
    tell(f"the cache folder cannot be used ({why}); going on in {other}: set {CACHE_VARIABLE} to keep results")
    return other


def temporary_folder() -> Path:
    """The user's folder among the temporary files; not made."""
    return Path(tempfile.gettempdir(), f"twinkle_tune-{os.geteuid()}")


def make_private(folder: Path) -> None:
    """Make a folder, and those above it, for its owner alone (mode 0700); one that is there stays as it is.

    Raises:
        OSError: it cannot be made, or is no folder.
    """
    if not folder.parent.exists():
        make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def _wanted() -> Path:
    """The folder that is meant. Raises RuntimeError where no home is known."""
    named = os.environ.get(CACHE_VARIABLE, "").strip()
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "twinkle_tune"


def _try(folder: Path) -> None:
    """Make it, and see that a file can be written there: a disk that is full tells only then."""
    make_private(folder)
    probe = folder / f".{os.getpid()}.{secrets.token_hex(4)}.tmp"
    file = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.write(file, bytes(_ROOM_BYTES)) < _ROOM_BYTES:
            raise OSError("the disk is full")
    finally:
        os.close(file)
        probe.unlink(missing_ok=True)
