"""``twinkle-tune report``: show what profiles say."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from twinkle_tune.profile.schema import Profile


class ReportFormat(StrEnum):
    """How a report is written."""

    TERMINAL = "terminal"
    HTML = "html"
    MD = "md"
    CSV = "csv"
    JSON = "json"

    @property
    def suffix(self) -> str:
        """The ending of a file in this format."""
        return ".txt" if self is ReportFormat.TERMINAL else f".{self}"


_STRINGABLE = (ReportFormat.TERMINAL, ReportFormat.MD)
"""Formats of which several reports can stand one after another; the others are one document each."""


def report(
    profiles: Annotated[list[Path], typer.Argument(help="Profiles written by 'twinkle-tune profile'.")],
    format: Annotated[ReportFormat, typer.Option("--format", "-f", help="How to show them.")] = ReportFormat.TERMINAL,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write to; with several profiles, a folder.")
    ] = None,
) -> None:
    """Show what profiles say: the verdict, what won and by how much, and why the rest did not."""
    from twinkle_tune.errors import TuneError
    from twinkle_tune.profile.io import load_profile

    if len(profiles) > 1 and out is None and format not in _STRINGABLE:
        raise TuneError(
            f"report: got {len(profiles)} profiles and --format {format} without --out, expected "
            "one profile, as one document holds one; pass --out FOLDER"
        )
    # All are read before anything is written: a broken profile leaves nothing half done.
    loaded = [(path, load_profile(path)) for path in profiles]
    if out is None:
        for index, (path, profile) in enumerate(loaded):
            _print(profile, path, format, gap=index > 0)
        return
    for (path, profile), target in zip(loaded, _targets(profiles, format, out), strict=True):
        _write(_text(profile, path, format), target)
        typer.echo(f"wrote {target}", err=True)


def _print(profile: Profile, path: Path, format: ReportFormat, *, gap: bool) -> None:
    if gap:
        typer.echo()
    if format is ReportFormat.TERMINAL and sys.stdout.isatty():
        from rich.console import Console

        from twinkle_tune.report.terminal import print_report

        print_report(profile, Console(), str(path))
    else:
        typer.echo(_text(profile, path, format), nl=False)


def _text(profile: Profile, path: Path, format: ReportFormat) -> str:
    if format is ReportFormat.TERMINAL:
        from twinkle_tune.report.terminal import terminal_text

        return terminal_text(profile, str(path))
    from twinkle_tune.report.render import Format, render

    return render(profile, cast("Format", format.value), str(path))


def _targets(profiles: list[Path], format: ReportFormat, out: Path) -> list[Path]:
    """Where each report goes.

    Raises:
        TuneError: two of them would be one file.
    """
    from twinkle_tune.errors import TuneError

    if len(profiles) == 1:
        return [out / f"{profiles[0].stem}{format.suffix}" if out.is_dir() else out]
    targets = [out / f"{path.stem}{format.suffix}" for path in profiles]
    for index, target in enumerate(targets):
        if target in targets[:index]:
            first = profiles[targets.index(target)]
            raise TuneError(
                f"report: {first} and {profiles[index]} would both be written to {target}, "
                "expected different file names; report them one at a time with --out FILE"
            )
    return targets


def _write(text: str, target: Path) -> None:
    from twinkle_tune.errors import TuneError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TuneError(f"{target}: the report cannot be written ({error}); choose another --out") from error
