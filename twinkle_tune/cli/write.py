"""Files that a command leaves behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twinkle_tune.errors import TuneError
from twinkle_tune.profile.files import obstacle, write_files

if TYPE_CHECKING:
    from twinkle_tune.profile.schema import Profile
    from twinkle_tune.report.render import Format

Content = str | bytes | Iterator[str]
"""Of a file: whole, or a text in pieces that need never be held together."""


def check_writable(paths: Sequence[Path]) -> None:
    """Refuse before the work begins what could not be written after it.

    Raises:
        TuneError: a path is a folder, stands below a file, or must not be written to; or its name is too long.
    """
    for path in paths:
        why = obstacle(path)
        if why == "it is a folder":
            raise TuneError(f"{path} is a folder, expected the path of a file to write; add a file name")
        if why:
            raise TuneError(f"{path} cannot be written: {why}; choose another path")


def write_file(path: Path, content: Content, advice: str = "choose another --out") -> None:
    """Write a report's file, making its folder: whole, or not at all.

    Args:
        path: the file.
        content: a text is written as UTF-8.
        advice: ends the message where it cannot be written.

    Raises:
        TuneError: the file cannot be written; one that was there is as it was.
    """
    write_together({path: content}, advice, "the report ")


def write_report(profile: Profile, path: Path, form: Format, source: Path) -> None:
    """Render a profile, which is kept in ``source``, and write the report, making the folder.

    Raises:
        TuneError: the file cannot be written.
    """
    from twinkle_tune.report.render import pieces

    write_file(path, pieces(profile, form, str(source)), "the profile is saved: use 'twinkle-tune report'")


def write_together(files: Mapping[Path, Content], advice: str = "choose another --out", what: str = "") -> None:
    """Write some files, making their folders: all of them or, on an error, none over what was there.

    Args:
        files: content by path; a text is written as UTF-8.
        advice: ends the message where one cannot be written.
        what: they are, for that message.

    Raises:
        TuneError: one of them cannot be written.
    """
    for path in files:
        why = obstacle(path)
        if why:
            raise TuneError(f"{path}: {what}cannot be written ({why}); {advice}")
    try:
        write_files({path: _encoded(content) for path, content in files.items()})
    except (OSError, ValueError) as error:  # ValueError: a text that UTF-8 lacks
        names = ", ".join(map(str, files))
        raise TuneError(f"{names}: {what}cannot be written ({error}); {advice}") from error


def _encoded(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
    else:
        for piece in [content] if isinstance(content, str) else content:
            yield piece.encode()
