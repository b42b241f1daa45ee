"""Runs a module of tests in Triton's interpreter: a process of its own, for Triton reads its flag when it decorates.

The interpreter costs about a millisecond for each program instance: calls are to be small. It shows whether a kernel
is right, never how fast it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
Case = tuple[str, Callable[[], object]]
"""What is claimed, and a function that raises where it does not hold."""


def run_interpreted(module: str, *arguments: str, timeout_s: float = 400.0) -> None:
    """Run ``python -m module arguments`` in the interpreter; fail with what it printed if it fails."""
    __tracebackhide__ = True
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"{module} {' '.join(arguments)}:\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"


def main(cases: Iterable[Case]) -> int:
    """In the other process: run every case, print each that fails; 1 if any does, or if there is none."""
    assert os.environ.get("TRITON_INTERPRET") == "1", "start this through run_interpreted"
    from twinkle_tune.interpreted import rounded_as_on_devices

    count = failed = 0
    for claim, case in cases:
        count += 1
        try:
            with rounded_as_on_devices():
                case()
        except Exception as error:
            failed += 1
            where = "" if isinstance(error, AssertionError) else traceback.format_exc(limit=-6)
            print(f"FAILED {claim}: {type(error).__name__}: {error}\n{where}")
    print(f"{count} cases, {failed} failed")
    return int(failed > 0 or count == 0)
