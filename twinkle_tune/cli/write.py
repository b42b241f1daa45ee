"""Files that a command leaves behind."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twinkle_tune.errors import TuneError

if TYPE_CHECKING:
    from twinkle_tune.profile.schema import Profile
    from twinkle_tune.report.render import Format


def check_writable(paths: Sequence[Path]) -> None:
    """Refuse before the work begins what could not be written after it.

    Raises:
        TuneError: a path is a folder, stands below a file, or must not be written to.
    """
    for path in paths:
        if path.is_dir():
            raise TuneError(f"{path} is a folder, expected the path of a file to write; add a file name")
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if there != path and not there.is_dir():
            raise TuneError(f"{path} cannot be written: {there} is a file, expected a folder; choose another path")
        if not os.access(there, os.W_OK):
            raise TuneError(f"{path} cannot be written: {there} is not writable; choose another path")


def write_file(path: Path, content: str | bytes, advice: str = "choose another --out") -> None:
    """Write a report's file, making its folder.

    Args:
        path: the file.
        content: text, written as UTF-8, or bytes.
        advice: ends the message where it cannot be written.

    Raises:
        TuneError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise TuneError(f"{path}: the report cannot be written ({error}); {advice}") from error


def write_report(profile: Profile, path: Path, form: Format, source: Path) -> None:
    """Render a profile, which is kept in ``source``, and write the report, making the folder.

    Raises:
        TuneError: the file cannot be written.
    """
    from twinkle_tune.report.render import render

    write_file(path, render(profile, form, str(source)), "the profile is saved: use 'twinkle-tune report'")


def write_together(files: Mapping[Path, str]) -> None:
    """Write some files, making their folders: all of them or, on an error, none over what was there.

    Raises:
        TuneError: one of them cannot be written.
    """
    check_writable(list(files))
    beside = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    path = next(iter(files))
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            beside[path].write_text(text, encoding="utf-8")
        for path in files:
            os.replace(beside[path], path)
    except OSError as error:
        raise TuneError(f"{path}: cannot be written ({error}); choose another --out") from error
    finally:
        for path in beside.values():
            path.unlink(missing_ok=True)
