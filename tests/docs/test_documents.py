"""Pages that go through another project's document by its sentences: each row names tests, and they are there."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).parents[2]
Shown = Literal["tested", "no test", "not here"]
WITHOUT: tuple[Shown, ...] = ("no test", "not here")
"""What a row of Kernl's page may say in place of tests: it holds, but no test shows it; it does not hold, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page, the letters that its rows begin with, and whether a row may have no test."""

    name: str
    letters: str
    least: int
    may_lack: bool

    def rows(self) -> dict[str, list[str]]:
        """Cells of each row, by the row's own name, such as K12."""
        lines = (ROOT / "docs" / self.name).read_text(encoding="utf-8").splitlines()
        # A cell may hold an escaped bar.
        cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if re.match(rf"\| [{self.letters}]\d+ ", line)]
        found = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells}
        assert len(found) == len(cells), "a row's name comes twice"
        return found


KERNL = Page(name="kernl-document.md", letters="K", least=60, may_lack=True)
PAGES = [Page(name="kernels-documents.md", letters="RGT", least=61, may_lack=False), KERNL]


@cache
def known() -> dict[str, bool]:
    """The names of this repository's tests, and whether one of that name runs without a CUDA device."""
    found: dict[str, bool] = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        text = file.read_text(encoding="utf-8")
        for_gpus = re.search(r"^pytestmark = .*mark\.gpu", text, re.MULTILINE) is not None
        for marks, name in re.findall(r"((?:^@.*\n|^[ )\]].*\n)*)^def (test_\w+)", text, re.MULTILINE):
            found[name] = found.get(name, False) or not (for_gpus or "mark.gpu" in marks)
    return found


def shown(cell: str, *, may_lack: bool) -> Shown:
    """What a row's last cell says; an error unless it names tests of this repository that run without a GPU."""
    for word in WITHOUT:
        if may_lack and cell == word:
            return word
    named = re.findall(r"`(test_\w+)`", cell)
    assert named, f"{cell!r}: expected names of tests"
    assert not [name for name in named if name not in known()], f"{cell!r}: there is no such test"
    assert all(known()[name] for name in named), f"{cell!r}: it runs on a GPU alone"
    return "tested"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_sentence_has_a_test_that_is_there(page: Page) -> None:
    """Each row names tests of this repository, or says that there are none where the page may."""
    rows = page.rows()
    assert len(rows) >= page.least
    for name, cells in rows.items():
        assert len(cells) == 3, name
        assert all(cells), name
        shown(cells[-1], may_lack=page.may_lack)


def test_rows_without_a_test_are_counted_on_top() -> None:
    """The page counts right: claims, those that tests show, those that none shows, and those that are not here."""
    found = Counter(shown(cells[-1], may_lack=True) for cells in KERNL.rows().values())
    text = " ".join((ROOT / "docs" / KERNL.name).read_text(encoding="utf-8").split())
    counted = f"Of {found.total()} claims {found['tested']} are shown by tests, {found['no test']} by none, "
    assert f"{counted}and {found['not here']} do not hold here." in text


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("`test_of_nobody`", "no such test"),
        ("as there", "expected names"),
        ("no test, really", "expected names"),
        ("`test_a_backward_can_be_captured`", "on a GPU alone"),
    ],
)
def test_a_row_that_shows_nothing_is_found(cell: str, why: str) -> None:
    """A test that is not there, none, other words than the two, and a test that is skipped without a GPU."""
    with pytest.raises(AssertionError, match=why):
        shown(cell, may_lack=True)
