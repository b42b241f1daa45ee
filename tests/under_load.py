"""``make test`` while another process keeps every core busy: ``python -m tests.under_load [--times 3] [TESTS...]``.

Says of each run whether it passed, how many minutes it took and which tests failed; ends with 1 if any run failed.
Not among the tests: it takes an hour and more.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

from tests.bench.aa import busy_core

ROOT = Path(__file__).parents[1]


def command() -> list[str]:
    """What ``make test`` runs, with this Python."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^test:.*\n\t\$\(BIN\)/python (.+)$", makefile, re.MULTILINE)
    assert found is not None, "the Makefile has no target test that runs $(BIN)/python"
    words = re.findall(r'"[^"]*"|\S+', found[1])
    return [sys.executable, *(word.strip('"') for word in words)]


def failed_in(report: Path) -> list[str]:
    """The tests that a report in JUnit's format says failed, or could not be set up."""
    cases = ElementTree.parse(report).iter("testcase")
    return [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]


def run(tests: Sequence[str], cores: int) -> tuple[int, float, list[str]]:
    """Run the tests once beside so many busy processes: pytest's exit code, minutes, and who failed."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as busy:
        report = Path(folder) / "report.xml"
        for _ in range(cores):
            busy.enter_context(busy_core())
        began_s = time.monotonic()
        code = subprocess.run([*command(), "-q", f"--junitxml={report}", *tests], cwd=ROOT, check=False).returncode
        minutes = (time.monotonic() - began_s) / 60
        return code, minutes, failed_in(report) if report.exists() else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and say what came of it; 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.under_load", description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", help="files or tests; all without it")
    parser.add_argument("--times", type=int, default=3, help="how many runs")
    asked = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    lines, bad = [], False
    for number in range(1, asked.times + 1):
        code, minutes, failed = run(asked.tests, cores)
        bad |= code != 0
        verdict = "passed" if code == 0 else f"failed with exit code {code}"
        lines.append(f"run {number} of {asked.times}: {verdict}, {minutes:.1f} minutes beside {cores} busy processes")
        lines += [f"  {name}" for name in failed]
        print(lines[-1 - len(failed)], flush=True)
    print("\n".join(["", *lines]))
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
