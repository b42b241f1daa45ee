"""Files that are written whole or not at all. Everything that a user asks to be written goes through here."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

_OWN_DESCRIPTORS = re.compile(r"/proc/(self|thread-self|\d+)(/task/\d+)?/fd|/dev/fd")
_MOST_LINKS = 40
_NAME_MAX = 255
_NO_ROOM_BESIDE = (errno.EACCES, errno.EPERM, errno.EROFS)
"""No file can be made in the folder: one that is there may still be written."""


def write_files(files: Mapping[Path, Iterable[bytes]]) -> None:
    """Write some files, in pieces, making their folders: all of them or, on an error, none over what was there.

    A file that is there is replaced in one step, by a whole new one of its mode and, where the system lets us, its
    owner; of a symbolic link, the file that it stands for. What is there and is no regular file is written to as it
    is: a pipe, a terminal, /dev/null, the process's own stdout. A folder, a socket or a disk is refused.

    Raises:
        OSError: one of them cannot be written. What a piece raises when it is made comes through, likewise.
    """
    staged: dict[Path, Path] = {}
    streams: dict[Path, Iterable[bytes]] = {}
    try:
        for path, pieces in files.items():
            there = _status(path)
            if descriptor_of(path) is not None or (there is not None and not stat.S_ISREG(there.st_mode)):
                if there is not None:
                    _refuse(path, there)
                streams[path] = pieces
                continue
            target = Path(os.path.realpath(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.tmp")
            staged[beside] = target
            try:
                file = _made(beside, there)
            except OSError as error:
                if there is None or error.errno not in _NO_ROOM_BESIDE:
                    raise
                beside.unlink(missing_ok=True)
                del staged[beside]
                # Held as a whole, so that nothing but the disk can stop it half-way.
                _overwrite(target, b"".join(pieces))
                continue
            try:
                _write(file, pieces)
                os.fsync(file)
            finally:
                os.close(file)
        for path, pieces in streams.items():
            _write_through(path, pieces)
        for beside, target in staged.items():
            try:
                os.replace(beside, target)
            except OSError as error:
                if error.errno != errno.EBUSY or not target.is_file():  # a file that is a mount point
                    raise
                _overwrite(target, beside.read_bytes())
    finally:
        for beside in staged:
            with suppress(OSError):
                beside.unlink()


def read_file(path: Path, most_bytes: int) -> bytes:
    """What is in a file, a pipe or the like, up to a limit.

    Raises:
        OSError: it cannot be read, or holds more.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it holds more than {most_bytes >> 20} MiB, the most that is read", str(path))
    return content


def write_file(path: str | Path, content: bytes) -> None:
    """Write one file, as :func:`write_files`."""
    write_files({Path(path): [content]})


def obstacle(path: Path) -> str:
    """Why :func:`write_files` could not write there, as far as can be told before; "" where nothing is in the way.

    Makes and changes nothing.
    """
    for part in path.parts:
        if len(os.fsencode(part)) > _NAME_MAX:
            return f"a name of {len(os.fsencode(part))} bytes, expected at most {_NAME_MAX}"
    try:
        there = _status(path)
        if descriptor_of(path) is not None:
            return "" if there is not None else "no such file descriptor is open"
        if there is not None:
            if stat.S_ISDIR(there.st_mode):
                return "it is a folder"
            _refuse(path, there)
            return "" if os.access(path, os.W_OK) else f"{path} is not writable"
        target = Path(os.path.realpath(path))
        folder = next(parent for parent in target.parents if parent.exists())
    except OSError as error:
        return error.strerror or str(error)
    if not folder.is_dir():
        return f"{folder} is a file, expected a folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} is not writable"
    return ""


def is_stream(path: Path) -> bool:
    """Whether what is written there is written through: a pipe, a device, this process's own stdout."""
    there = _status(path)
    return descriptor_of(path) is not None or (
        there is not None and (stat.S_ISFIFO(there.st_mode) or stat.S_ISCHR(there.st_mode))
    )


def descriptor_of(path: Path) -> int | None:
    """The file descriptor of this process that a path like /dev/stdout or /dev/fd/3 stands for; None for others."""
    seen = Path(os.path.abspath(path))
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(seen.parent)
        found = _OWN_DESCRIPTORS.fullmatch(folder)
        if found and (found[1] or "self") in ("self", "thread-self", str(os.getpid())) and seen.name.isdecimal():
            return int(seen.name)
        try:
            seen = Path(folder, os.readlink(seen))
        except OSError:
            return None
    return None


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _refuse(path: Path, there: os.stat_result) -> None:
    mode = there.st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        kind = "a socket" if stat.S_ISSOCK(mode) else "a disk" if stat.S_ISBLK(mode) else "no file"
        raise OSError(errno.EINVAL, f"it is {kind}, expected a file, a pipe or a terminal", str(path))


def _made(beside: Path, there: os.stat_result | None) -> int:
    """A new file, open for writing, of the mode and owner of the one that is there."""
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if there is None else 0o600)
    if there is None:
        return file
    try:
        mode = stat.S_IMODE(there.st_mode)
        if not mode & 0o222 and os.geteuid() != 0:
            raise PermissionError(errno.EACCES, "it is write-protected")
        own = os.fstat(file)
        if (own.st_uid, own.st_gid) != (there.st_uid, there.st_gid):
            # Who may not give files away keeps the group at least, where that is one of theirs.
            with suppress(OSError):
                os.fchown(file, -1, there.st_gid)
            with suppress(OSError):
                os.fchown(file, there.st_uid, -1)
        os.fchmod(file, mode)
    except BaseException:
        os.close(file)
        raise
    return file


def _overwrite(target: Path, content: bytes) -> None:
    """Write into a file that cannot be replaced; what was in it is put back where the disk is full."""
    file = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        before = os.pread(file, os.fstat(file).st_size, 0)
        try:
            _write(file, [content])
        except OSError:
            os.lseek(file, 0, os.SEEK_SET)
            _write(file, [before])
            os.ftruncate(file, len(before))
            raise
        os.ftruncate(file, len(content))
        os.fsync(file)
    finally:
        os.close(file)


def _write_through(path: Path, pieces: Iterable[bytes]) -> None:
    own = descriptor_of(path)
    if own is not None:
        # What was printed before stands before.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        _write(own, pieces)
        return
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _write(file, pieces)
    finally:
        os.close(file)


def _write(file: int, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(file, rest) :]
