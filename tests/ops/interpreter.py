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
from typing import Any

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
    round_to_nearest_bfloat16()
    count = failed = 0
    for claim, case in cases:
        count += 1
        try:
            case()
        except Exception as error:
            failed += 1
            where = "" if isinstance(error, AssertionError) else traceback.format_exc(limit=-6)
            print(f"FAILED {claim}: {type(error).__name__}: {error}\n{where}")
    print(f"{count} cases, {failed} failed")
    return int(failed > 0 or count == 0)


def round_to_nearest_bfloat16() -> None:
    """Make float32 to bfloat16 round to nearest even, as a GPU does: the interpreter cuts the last bits off."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    cut_off = interpreter._convert_float

    def convert(given: Any, given_dtype: Any, wanted_dtype: Any, rounding_mode: Any) -> Any:
        if given_dtype != tl.float32 or wanted_dtype != tl.bfloat16:
            return cut_off(given, given_dtype, wanted_dtype, rounding_mode)
        bits = np.ascontiguousarray(given).view(np.uint32).astype(np.uint64)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # Rounding would carry a NaN's last bits into its sign.
        return np.where(np.isnan(given), 0x7FC0, rounded).astype(np.uint16)

    interpreter._convert_float = convert
