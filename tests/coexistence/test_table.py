"""The table in docs/coexistence.md names real tests, and every row names one."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "coexistence.md"


def test_every_row_is_a_test() -> None:
    """Each row's last column holds the names of tests in this folder; no test of the folder is left out."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`(test_\w+)`", row.rpartition(" | ")[2]) for row in rows]
    written = re.findall(r"^def (test_\w+)", "".join(f.read_text() for f in HERE.glob("test_*.py")), re.MULTILINE)
    assert rows
    assert all(named)
    of_the_tests = {"test_every_row_is_a_test", "test_the_kernels_show"}
    assert {name for names in named for name in names} == set(written) - of_the_tests
