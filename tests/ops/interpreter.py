"""Runs modules of tests in Triton's interpreter: in other processes, for Triton reads its flag when it decorates.

To import torch, Triton and the ops takes seconds of processor time. One process has them imported for a whole session
of tests, and is forked for each module: what one leaves behind no other sees.

The interpreter costs about a millisecond for each program instance: calls are to be small. It shows whether a kernel
is right, never how fast it is.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
Case = tuple[str, Callable[[], object]]
"""What is claimed, and a function that raises where it does not hold."""


def run_interpreted(module: str, *arguments: str, timeout_s: float = 400.0) -> None:
    """Run ``python -m module arguments`` in the interpreter; fail with what it printed if it fails."""
    __tracebackhide__ = True
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as printed:
        code = _ended([printed.name, module, *arguments], timeout_s)
        assert code == 0, f"{module} {' '.join(arguments)}: exit code {code}\n{printed.read()[-9000:]}"


def _ended(words: list[str], timeout_s: float) -> int:
    """The exit code of a fork that was asked for this."""
    process = _prepared()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(words) + "\n")
    process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], timeout_s)
    if not ready:
        _prepared.cache_clear()
        os.killpg(process.pid, signal.SIGKILL)
        raise TimeoutError(f"{words[1]} did not end within {timeout_s:g} s")
    return int(process.stdout.readline())


@functools.cache
def _prepared() -> subprocess.Popen[str]:
    """The process that is forked; it ends when this one does."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ops.interpreter"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(process.communicate)
    return process


def serve() -> None:
    """In that process: fork for each line, a file to print to and the module with its arguments; say its exit code."""
    for name in (
        "triton.runtime.interpreter",
        "triton.experimental.gluon",
        "twinkle_tune.ops.launch",
        "twinkle_tune.testing.parity",
        "torch.fx.experimental.symbolic_shapes",  # as torch does at the first gradient
    ):
        importlib.import_module(name)
    for line in sys.stdin:
        printed, module, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            with open(printed, "w", encoding="utf-8") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.argv = [module, *arguments]
            os._exit(_run(module))  # to take all down that was imported is as much work as most modules are
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(module: str) -> int:
    """Run a module of tests; its exit code."""
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


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


if __name__ == "__main__":
    serve()
