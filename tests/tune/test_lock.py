"""Locks: one run at a time, who waits for whom, and what a killed holder leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from twinkle_tune.tune.lock import LockError, held, lock_path

ROOT = Path(__file__).parents[2]
_HOLD = """
import sys, time
from pathlib import Path
from twinkle_tune.tune.lock import held
with held("device cpu", Path(sys.argv[1]), command="twinkle-tune profile x", wait=True, tell=print):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path: Path, time_s: float) -> subprocess.Popen[str]:
    """A process that holds the lock for a while; it has it when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path), str(time_s)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_or_waits(tmp_path: Path) -> None:
    """While another process has it, --no-wait is an error that names the holder, else it is told and waited for."""
    path = tmp_path / "x.lock"
    first, told = holder(path, 0.7), list[str]()
    who = f"device cpu is in use by another run (process {first.pid}: twinkle-tune profile x)"
    with pytest.raises(LockError) as caught, held("device cpu", path, command="", wait=False, tell=told.append):
        pass
    assert str(caught.value).startswith(who)
    assert told == []
    with held("device cpu", path, command="", wait=True, tell=told.append):
        assert first.wait(timeout=20) == 0
    assert told == [f"waiting: {who}"]


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    """The lock of a process that was killed is free at once."""
    first = holder(tmp_path / "x.lock", 60)
    first.kill()
    first.wait()
    with held("device cpu", tmp_path / "x.lock", command="", wait=False, tell=print):
        pass


def test_ctrl_c_ends_the_waiting(tmp_path: Path) -> None:
    """A run that waits can be interrupted, and the holder keeps the lock."""
    first = holder(tmp_path / "x.lock", 60)
    second = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path / "x.lock"), "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.5)
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert first.poll() is None
    first.kill()
    first.wait()


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    """Whatever ends the work lets go of the lock; other names are other locks."""
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), held("x", tmp_path / "x", command="c", wait=False, tell=print):
            raise ZeroDivisionError
    assert lock_path("device-cpu") != lock_path("device-cuda")
    assert lock_path("out-/a/b") != lock_path("out-/a-b")


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache folder cannot be made, locks are in a folder of the user among the temporary files."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setenv("TWINKLE_TUNE_CACHE", str(tmp_path / "cache"))
    assert lock_path("x").parent.name == f"twinkle_tune-{os.getuid()}"


def test_what_cannot_be_locked_is_told(tmp_path: Path) -> None:
    """A folder that is a file is one error that says what to set."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(LockError, match=r"the lock of device cpu cannot be taken .* set TWINKLE_TUNE_CACHE"),
        held("device cpu", tmp_path / "file" / "x", command="", wait=False, tell=print),
    ):
        pass
