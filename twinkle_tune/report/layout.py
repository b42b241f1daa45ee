"""Tables and text for a terminal of any width: columns are left out or shortened, and no word is broken."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from twinkle_tune.report.text import NOTHING, one_line

_GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        head: its name.
        right: whether figures stand under each other by their last digit.
        rank: columns of the highest rank are left out first where space is short; those of rank 0 always stay.
        least: letters to which its cells may be shortened, in their middle; 0 for never.
    """

    head: str
    right: bool = False
    rank: int = 0
    least: int = 0


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], width: int, *, indent: int = 0
) -> list[Text]:
    """A table as lines, its heads first, each at most ``width`` wide. Columns without a figure are left out."""
    used = [n for n in range(len(columns)) if any(str(row[n]) not in ("", NOTHING) for row in rows)]
    sizes = {n: max([cell_len(columns[n].head), *(cell_len(str(row[n])) for row in rows)]) for n in used}
    while _total(sizes) + indent > width:
        longest = max((n for n in sizes if columns[n].least), key=lambda n: sizes[n] - columns[n].least, default=None)
        spare = 0 if longest is None else sizes[longest] - columns[longest].least
        leaving = max((n for n in sizes if columns[n].rank), key=lambda n: columns[n].rank, default=None)
        if leaving is not None:
            del sizes[leaving]
        elif longest is not None and spare > 0:
            sizes[longest] -= min(spare, _total(sizes) + indent - width)
        else:
            break
    heads = [Text(column.head, style="dim") for column in columns]
    return [_line([row[n] for n in sizes], [columns[n] for n in sizes], list(sizes.values()), indent, width)
            for row in (heads, *rows)]  # fmt: skip


def wrapped(text: str, width: int, *, indent: int = 0, style: str = "") -> list[Text]:
    """Text in lines of at most ``width``, broken between words; a longer word is broken after a dot, colon or slash."""
    room = max(width - indent, 8)
    whole = " ".join(text.split())
    if cell_len(whole) <= room:
        return [Text(" " * indent + whole, style=style)]
    lines, line = [], ""
    for word in (piece for whole in text.split() for piece in _pieces(whole, room)):
        glue = "" if not line or line.endswith("\N{ZERO WIDTH SPACE}") else " "
        if line and cell_len(line) + len(glue) + cell_len(word) > room:
            lines.append(line)
            line, glue = "", ""
        line += glue + word
    lines.append(line)
    return [Text(" " * indent + each.replace("\N{ZERO WIDTH SPACE}", ""), style=style) for each in lines]


def command(text: str, width: int) -> list[Text]:
    """A command of the shell in lines to be copied: each but the last ends in a backslash.

    A word that is longer than a line stays whole: a terminal wraps it, and copies it without a break.
    """
    try:
        words = [shlex.quote(word) for word in shlex.split(text)]
    except ValueError:
        words = text.split()
    return _copied(words, "", width, " \\")


def python(text: str, width: int) -> list[Text]:
    """A line of Python in lines to be copied: broken after commas alone, and a comment stays one."""
    if text.startswith("# "):
        return _copied(text[2:].split(), "# ", width)
    return _copied(re.split(r"(?<=,) ", text), "", width)


def _copied(words: Sequence[str], start: str, width: int, end: str = "") -> list[Text]:
    """Whole words in lines, each of which begins with ``start``, and all but the last ends in ``end``."""
    room, lines = width - cell_len(start) - len(end), [""]
    for word in words:
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(word) > room:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    ends = [end] * (len(lines) - 1) + [""]
    return [Text(f"{start}{line}{last}", style="cyan") for line, last in zip(lines, ends, strict=True)]


def _pieces(word: str, room: int) -> list[str]:
    """A word, or its parts where it is too long for a line; a part that is still too long loses its middle."""
    if cell_len(word) <= room:
        return [word]
    parts = [part for part in re.split(r"(?<=[.:/,=])", word) if part]
    joined: list[str] = []
    for part in parts:
        if joined and cell_len(joined[-1]) + cell_len(part) <= room:
            joined[-1] += part
        else:
            joined.append(part)
    short = [one_line(part, room) if cell_len(part) > room else part for part in joined]
    return [f"{part}\N{ZERO WIDTH SPACE}" for part in short[:-1]] + short[-1:]


def _total(sizes: dict[int, int]) -> int:
    return sum(sizes.values()) + _GAP * max(0, len(sizes) - 1)


def _line(
    cells: Sequence[str | Text], columns: Sequence[Column], sizes: Sequence[int], indent: int, width: int
) -> Text:
    text, styled = " " * indent, []
    for n, (cell, column, size) in enumerate(zip(cells, columns, sizes, strict=True)):
        shown = str(cell) if cell_len(str(cell)) <= size else one_line(cell, size)
        space = " " * (size - cell_len(shown))
        text += " " * (_GAP if n else 0) + (space if column.right else "")
        if isinstance(cell, Text):
            styled.append((cell.style, len(text), len(text) + len(shown)))
        text += shown + ("" if column.right else space)
    line = Text(text.rstrip())
    for style, start, end in styled:
        line.stylize(style, start, end)
    line.truncate(width)
    return line
