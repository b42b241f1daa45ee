"""Compilers end with whoever started them, and leave nothing among the temporary files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from twinkle_tune.tune.compilers import end_compilers

ROOT = Path(__file__).parents[2]
_SLOW = """
#include <type_traits>
template <unsigned long n> struct F : std::integral_constant<unsigned long, F<n - 1>::value * 3 + F<n / 2>::value> {};
template <> struct F<0> : std::integral_constant<unsigned long, 1> {};
int main() { return F<12000>::value + F<11999>::value; }
"""
"""Takes seconds to compile, all of them in the compiler proper; its assembly goes into a temporary file."""
_RUN = """
import signal, subprocess, sys
from twinkle_tune.cli.stop import stoppable
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup ignore it
with stoppable():
    try:
        subprocess.run(["g++", "-O2", "-ftemplate-depth=30000", sys.argv[1], "-o", "/dev/null"], check=False)
    except KeyboardInterrupt:
        sys.exit(7)
"""

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or not Path("/proc/self/task").exists(), reason="no g++ here, or no /proc"
)


def _wait(seen: Callable[[], bool], what: str) -> None:
    ends_s = time.monotonic() + 150
    while not seen():
        assert time.monotonic() < ends_s, what
        time.sleep(0.01)


def _compilers(source: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(source).encode() in command and b"stoppable" not in command and process.name != str(os.getpid()):
            found.append(int(process.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_compiler_of_the_command_itself(tmp_path: Path, number: signal.Signals) -> None:
    """A command that gets a signal while g++ runs for it ends g++ and the compiler proper, and no cc*.s stays."""
    source, temporary = tmp_path / "slow.cpp", tmp_path / "tmp"
    source.write_text(_SLOW)
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(source)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stderr=subprocess.DEVNULL,
    )
    # The driver, and the compiler proper under it.
    _wait(lambda: len(_compilers(source)) >= 2 and any(temporary.iterdir()), "no compiler is started")
    process.send_signal(number)
    assert process.wait(timeout=150) == 7
    assert _compilers(source) == []
    assert list(temporary.iterdir()) == []


def test_nobody_else_is_touched() -> None:
    """A process below that is no compiler goes on."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        end_compilers(os.getpid())
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
