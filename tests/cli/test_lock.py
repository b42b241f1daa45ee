"""Locks: one run at a time, who waits for whom, and what a killed holder leaves."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from twinkle_tune.cli.lock import LockError, held, lock_path
from twinkle_tune.cli.past import locked

ROOT = Path(__file__).parents[2]
_HOLD = """
import functools, sys, time
from pathlib import Path
from twinkle_tune.cli.lock import held
tell = functools.partial(print, flush=True)
with held("device cpu", Path(sys.argv[1]), command="twinkle-tune profile x", wait=True, tell=tell):
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
    first, told = holder(path, 60), list[str]()

    def tell(line: str) -> None:
        told.append(line)
        first.terminate()

    who = f"device cpu is in use by another run (process {first.pid}: twinkle-tune profile x)"
    with pytest.raises(LockError) as caught, held("device cpu", path, command="", wait=False, tell=told.append):
        pass
    assert str(caught.value).startswith(who)
    assert told == []
    with held("device cpu", path, command="", wait=True, tell=tell):
        assert first.wait(timeout=300) == -signal.SIGTERM
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
    assert second.stdout is not None
    assert second.stdout.readline().startswith("waiting: ")
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=300)
    assert "KeyboardInterrupt" in errors
    assert first.poll() is None
    first.kill()
    first.wait()


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    """Whatever ends the work lets go of the lock; other names are other locks."""
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), held("x", tmp_path / "x", command="c", wait=False, tell=print):
            raise ZeroDivisionError
    assert lock_path("device-cpu", print) != lock_path("device-cuda", print)
    assert lock_path("out-/a/b", print) != lock_path("out-/a-b", print)


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache folder cannot be made, locks are in a folder of the user among the temporary files."""
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TWINKLE_TUNE_CACHE", str(tmp_path / "file" / "cache"))
    told: list[str] = []
    assert lock_path("x", told.append).parent == tmp_path / f"twinkle_tune-{os.getuid()}"
    assert f"going on in {tmp_path}" in "".join(told)


def test_a_cache_that_cannot_be_used_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that takes two locks in the temporary folder, since the disk of the cache is full, says so in one line."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device", f"{tmp_path}/{time.monotonic_ns()}.tmp")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TWINKLE_TUNE_CACHE", str(tmp_path / "cache"))
    real = os.open
    monkeypatch.setattr(
        "twinkle_tune.profile.folders.os.open",
        lambda path, *rest: full() if Path(path).parent == tmp_path / "cache" else real(path, *rest),
    )
    with locked("cpu", tmp_path / "p.json", wait=False):
        pass
    assert capsys.readouterr().err == (
        f"twinkle-tune: the cache folder cannot be used ({tmp_path}/cache: No space left on device); going on in "
        f"{tmp_path}/twinkle_tune-{os.geteuid()}: set TWINKLE_TUNE_CACHE to keep results\n"
    )


def test_what_cannot_be_locked_is_told(tmp_path: Path) -> None:
    """A folder that is a file is one error that says what to set."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(LockError, match=r"the lock of device cpu cannot be taken .* set TWINKLE_TUNE_CACHE"),
        held("device cpu", tmp_path / "file" / "x", command="", wait=False, tell=print),
    ):
        pass


@pytest.mark.parametrize("removed", ["file", "folder"])
def test_removing_the_file_lets_nobody_in(tmp_path: Path, removed: str) -> None:
    """With the file, or its whole folder, removed under its holder, a second run is refused; a waiting one waits."""
    path = tmp_path / "locks" / "x.lock"
    first = holder(path, 60)
    path.unlink()
    if removed == "folder":
        path.parent.rmdir()
    told = list[str]()
    with (
        pytest.raises(LockError, match="another run, whose lock file was removed"),
        held("device cpu", path, command="", wait=False, tell=told.append),
    ):
        pass
    assert told == []

    def tell(line: str) -> None:
        told.append(line)
        first.kill()

    with held("device cpu", path, command="", wait=True, tell=tell):
        assert first.wait(timeout=300) == -signal.SIGKILL
    assert told == ["waiting: device cpu is in use by another run, whose lock file was removed"]


def test_who_waited_for_a_removed_file_waits_for_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits on a file that is removed meanwhile does not run beside one that has locked the new file."""
    monkeypatch.setattr("twinkle_tune.cli.lock._claim", lambda path: (None, True))  # as on other systems
    path = tmp_path / "x.lock"
    begun, order = threading.Event(), list[str]()

    def waiter() -> None:
        with held("device cpu", path, command="", wait=True, tell=lambda line: begun.set()):
            order.append("waiter")

    with held("device cpu", path, command="", wait=False, tell=print):
        thread = threading.Thread(target=waiter)
        thread.start()
        assert begun.wait(20)
        path.unlink()
        other = holder(path, 60)
    time.sleep(0.5)
    assert order == []
    other.kill()
    other.wait()
    thread.join(20)
    assert order == ["waiter"]


def test_a_full_disk_under_the_lock_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the text for those who wait cannot be written, the lock is held all the same."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("twinkle_tune.cli.lock.os.pwrite", full)
    with (
        held("device cpu", tmp_path / "x", command="c", wait=False, tell=print),
        pytest.raises(LockError),
        held("device cpu", tmp_path / "x", command="c", wait=False, tell=print),
    ):
        pass


def test_a_name_of_another_user_s_is_no_run(tmp_path: Path) -> None:
    """A process of another user that has taken the lock's name does not keep anyone from the lock."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    path = tmp_path / "x.lock"
    code = (
        "import os, socket, sys, time; os.setuid(12345); s = socket.socket(socket.AF_UNIX)\n"
        "s.bind(chr(0) + sys.argv[1]); s.listen(1)\n"
        "print('held', flush=True); time.sleep(60)"
    )
    name = f"twinkle_tune-{hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()}"
    squatter = subprocess.Popen([sys.executable, "-S", "-c", code, name], stdout=subprocess.PIPE, text=True)
    assert squatter.stdout is not None
    assert squatter.stdout.readline() == "held\n"
    try:
        with held("device cpu", path, command="", wait=False, tell=print):
            pass
    finally:
        squatter.kill()
        squatter.wait()
