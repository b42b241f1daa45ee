"""The tables in docs/coexistence.md and docs/situations.md name real tests, and every row names one."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGES = [HERE.parents[1] / "docs" / name for name in ("coexistence.md", "situations.md")]


def test_every_row_is_a_test() -> None:
    """Each row's last column holds the names of tests in this folder; no test of the folder is left out."""
    lines = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    heads = {index - 1 for index, line in enumerate(lines) if line.startswith("|---")}
    rows = [line for index, line in enumerate(lines) if line.startswith("| ") and index not in heads]
    named = [re.findall(r"`(test_\w+)`", row.rpartition(" | ")[2]) for row in rows]
    written = re.findall(r"^def (test_\w+)", "".join(f.read_text() for f in HERE.glob("test_*.py")), re.MULTILINE)
    assert rows
    assert all(named)
    of_the_tests = {"test_every_row_is_a_test", "test_the_kernels_show"}
    assert {name for names in named for name in names} == set(written) - of_the_tests
