"""``twinkle-tune report``: show what profiles say."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from twinkle_tune.cli.options import parse_count
from twinkle_tune.cli.say import say, show, show_json_text, tell
from twinkle_tune.cli.write import Content, check_writable, write_file
from twinkle_tune.errors import ProfileError, TuneError

if TYPE_CHECKING:
    from rich.console import Console

    from twinkle_tune.profile.schema import Profile


class ReportFormat(StrEnum):
    """How a report is written."""

    TERMINAL = "terminal"
    HTML = "html"
    MD = "md"
    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"
    PNG = "png"
    SVG = "svg"
    TRACE = "trace"

    @property
    def suffix(self) -> str:
        """The ending of a file in this format."""
        return {"terminal": ".txt", "trace": ".trace.json"}.get(self, f".{self}")


class TableName(StrEnum):
    """A table of a profile, for CSV and Parquet."""

    SAMPLES = "samples"
    TRIALS = "trials"
    SELECTIONS = "selections"
    STEPS = "steps"
    PARITY = "parity"
    CONDITIONS = "conditions"
    TIMINGS = "timings"


_STRINGABLE = (ReportFormat.TERMINAL, ReportFormat.MD)
"""Formats of which several reports can stand one after another on stdout."""
_IMAGES = (ReportFormat.PNG, ReportFormat.SVG)
_FOLDERS = ("profiles", "out")
"""Where profiles are looked for when none is named."""


def report(
    profiles: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PROFILE",
            help="Written by 'twinkle-tune profile'.  [default: the latest in profiles/ and out/]",
        ),
    ] = None,
    format: Annotated[
        ReportFormat, typer.Option("--format", "-f", help="How to show them; several as html are compared.")
    ] = ReportFormat.TERMINAL,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write to; with png, svg or several profiles, a folder.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="In the terminal: every contest, not only the winners.")] = False,
    contest: Annotated[
        str | None, typer.Option(metavar="N", help="In the terminal: this contest alone, by its number.")
    ] = None,
    table: Annotated[TableName, typer.Option(help="The table that csv and parquet hold.")] = TableName.SAMPLES,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Show what a profile says, or compare several.

    The report begins with the verdict, then says which kernels won and by how much, and why the others did not.
    """
    from twinkle_tune.profile.io import load_profile

    form = ReportFormat.JSON if as_json else format
    number = parse_count("--contest", contest)
    paths = profiles or [latest(_FOLDERS)]
    if not profiles:
        tell(f"the latest profile: {paths[0]}")
    _check(paths, form, out)
    # All are read before anything is written: a broken profile leaves nothing half done.
    loaded = [load_profile(path) for path in paths]
    if form is ReportFormat.HTML and len(paths) > 1:
        _compare(paths, loaded, out)
    elif form in _IMAGES and out is not None:
        _draw(paths, loaded, form, out)
    elif form is ReportFormat.TERMINAL and out is None and len(paths) > 1:
        _side_by_side(paths, loaded)
    elif form is ReportFormat.TERMINAL and out is None:
        from twinkle_tune.report.terminal import print_report

        print_report(loaded[0], console(), str(paths[0]), full=full, contest=number)
    elif out is None:
        for index, (path, profile) in enumerate(zip(paths, loaded, strict=True)):
            pieces = _content(profile, path, form, table)
            assert not isinstance(pieces, bytes)  # parquet was refused without --out
            if index:
                say()
            for piece in pieces:
                (show_json_text if form is ReportFormat.JSON else show)(piece)
    else:
        targets = _targets(paths, form, out)
        for path, profile, target in zip(paths, loaded, targets, strict=True):
            if form is ReportFormat.TERMINAL:
                from twinkle_tune.report.terminal import terminal_text

                _write(target, terminal_text(profile, str(path), full=full, contest=number))
            else:
                _write(target, _content(profile, path, form, table))


def latest(folders: Sequence[str]) -> Path:
    """The newest profile in these folders and below, by the time of its file; JSON of another kind is passed over.

    Raises:
        TuneError: there is none.
    """
    found = [path for folder in folders for path in Path(folder).rglob("*.json") if _is_profile(path)]
    if not found:
        raise TuneError(
            f"report: got no profile and found none in {' or '.join(f'{name}/' for name in folders)}, expected one; "
            "name it, or make one with 'twinkle-tune profile'"
        )
    return max(found, key=lambda path: (path.stat().st_mtime_ns, str(path)))


def _is_profile(path: Path) -> bool:
    """Whether a file begins as profiles do, be the rest of it whole or not."""
    try:
        with path.open("rb") as file:
            return b'"schema"' in file.read(200)
    except OSError:
        return False


def _check(paths: Sequence[Path], form: ReportFormat, out: Path | None) -> None:
    if out is not None:
        if not os.path.isdir(out):
            check_writable([out])
        return
    if form in (*_IMAGES, ReportFormat.PARQUET):
        kind = "FOLDER" if form in _IMAGES else "FILE"
        raise TuneError(f"report: got --format {form} without --out, expected where to write it; pass --out {kind}")
    if len(paths) > 1 and form not in (*_STRINGABLE, ReportFormat.HTML):
        raise TuneError(
            f"report: got {len(paths)} profiles and --format {form} without --out, expected "
            "one profile, as one document holds one; pass --out FOLDER"
        )


def _compare(paths: Sequence[Path], loaded: Sequence[Profile], out: Path | None) -> None:
    from twinkle_tune.report.html import comparison_pieces

    pieces = comparison_pieces(loaded, [str(path) for path in paths])
    if out is None:
        for piece in pieces:
            show(piece)
    else:
        _write(out / "comparison.html" if out.is_dir() or not out.suffix else out, pieces)


def _draw(paths: Sequence[Path], loaded: Sequence[Profile], form: ReportFormat, out: Path) -> None:
    from twinkle_tune.report.images import ImageFormat, images
    from twinkle_tune.report.plots import plots

    folders = [out] if len(paths) == 1 else _targets(paths, form, out)
    for profile, folder in zip(loaded, folders, strict=True):
        count = 0
        for name, content in images(plots(profile), cast("ImageFormat", form.value)):
            write_file(folder / name, content)
            count += 1
        tell(f"wrote {count} plots to {folder}")


def console() -> Console:
    """The terminal, or what is piped: then COLUMNS says how wide, and without it 110 columns are."""
    from rich.console import Console

    from twinkle_tune.report.terminal import FILE_WIDTH

    if sys.stdout.isatty():
        return Console()
    return Console(width=shutil.get_terminal_size((FILE_WIDTH, 24)).columns, color_system=None)


def _side_by_side(paths: Sequence[Path], loaded: Sequence[Profile]) -> None:
    """Two profiles of one thing as 'diff' compares them; others step by step, and nothing called a regression."""
    from twinkle_tune.cli.diff import print_review, require_same

    if len(loaded) == 2:
        try:
            require_same(loaded[0], loaded[1])
        except ProfileError:
            pass  # different things are shown beside each other
        else:
            from twinkle_tune.report.review import review

            print_review(review(loaded[0], loaded[1]))
            return
    from twinkle_tune.report.terminal import print_versus

    print_versus(loaded, [str(path) for path in paths], console())


def _content(profile: Profile, path: Path, form: ReportFormat, table: TableName) -> bytes | Iterator[str]:
    if form in (ReportFormat.CSV, ReportFormat.PARQUET):
        from twinkle_tune.report.data import csv_text, parquet_bytes

        csv = form is ReportFormat.CSV
        return iter([csv_text(profile, table.value)]) if csv else parquet_bytes(profile, table.value)
    from twinkle_tune.report.render import Format, pieces

    return pieces(profile, cast("Format", form.value), str(path))


def _targets(paths: Sequence[Path], form: ReportFormat, out: Path) -> list[Path]:
    """Where each report goes; a folder each for images.

    Raises:
        TuneError: two of them would be one file.
    """
    ending = "" if form in _IMAGES else form.suffix
    if len(paths) == 1:
        return [out / f"{paths[0].stem}{ending}" if out.is_dir() else out]
    targets = [out / f"{path.stem}{ending}" for path in paths]
    for index, target in enumerate(targets):
        if target in targets[:index]:
            first = paths[targets.index(target)]
            raise TuneError(
                f"report: {first} and {paths[index]} would both be written to {target}, "
                "expected different file names; report them one at a time with --out FILE"
            )
    return targets


def _write(target: Path, content: Content) -> None:
    write_file(target, content)
    tell(f"wrote {target}")
