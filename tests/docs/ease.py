"""How easy each page reads: Flesch's formula over its prose, without code, tables and headings.

It needs textstat, which is no dependency of the project: ``pip install "textstat<0.7.5"``, then
``python tests/docs/ease.py [ROOT ...]``. A line a page: reading ease (higher is easier), words a sentence, words.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_NO_PROSE = (
    r"(?ms)^---\n.*?\n---\n",  # front matter
    r"(?ms)^( *)(```|~~~).*?^\1\2\s*$",
    r"(?m)^(\||#+ |:::).*$",
)


def prose(text: str) -> str:
    """The sentences of a page; names in code type count as a short word."""
    for pattern in _NO_PROSE:
        text = re.sub(pattern, "", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "x", text)
    text = re.sub(r"(?m)^(\s*[-*]|\s*\d+\.) +", "\n", text)
    return re.sub(r"<[^>]+>|[*_]{1,2}", "", text)


def pages(root: Path) -> Iterator[tuple[str, str]]:
    """Path and prose of each page that has at least thirty words of it."""
    for path in sorted([root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]):
        text = prose(path.read_text(encoding="utf-8"))
        if len(text.split()) >= 30:
            yield path.relative_to(root).as_posix(), text


if __name__ == "__main__":
    textstat = importlib.import_module("textstat")
    for each in sys.argv[1:] or ["."]:
        for name, text in pages(Path(each)):
            words, sentences = len(text.split()), max(1, textstat.sentence_count(text))
            print(f"{textstat.flesch_reading_ease(text):6.1f} {words / sentences:6.1f} {words:6d}  {name}")
