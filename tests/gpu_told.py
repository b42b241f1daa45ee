"""A plugin of pytest that says each failure as it comes: a run that is killed at its limit has told what it knew."""

from __future__ import annotations

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A line for a test that failed, with its error's last line."""
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = (crash.message if crash is not None else str(report.longrepr)).strip()
        print(f"\nFAILED {report.nodeid} ({report.when}): {why[:500]}", flush=True)
