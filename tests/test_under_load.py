"""The script that runs the tests on a busy machine runs what ``make test`` runs, and reads what came of it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.under_load import command, failed_in


def test_it_runs_what_make_test_runs() -> None:
    """The Makefile's command, with this Python in the place of its own."""
    assert command() == [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "not slow",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
    ]


def test_failures_and_errors_are_named(tmp_path: Path) -> None:
    """Of a report the tests that failed or could not be set up, and neither those that passed nor were skipped."""
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        "<testcase classname='a' name='passed'/>"
        "<testcase classname='a' name='failed'><failure>x</failure></testcase>"
        "<testcase classname='b' name='broken'><error>x</error></testcase>"
        "<testcase classname='b' name='skipped'><skipped/></testcase>"
        "</testsuite></testsuites>",
        encoding="utf-8",
    )
    assert failed_in(report) == ["a::failed", "b::broken"]
