"""``twinkle-tune profile`` that is stopped, runs beside another, or finds the disk full: real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from twinkle_tune.cli.app import run
from twinkle_tune.cli.stop import stoppable
from twinkle_tune.profile.io import load_profile
from twinkle_tune.tune.journal import read_journal

ROOT = Path(__file__).parents[2]
_COMMAND = [
    "profile", "llama-tiny", "--device", "cpu", "--layers", "1", "--seq-len", "8", "--candidates", "torch", "--no-ways"
]  # fmt: skip
# One norm called at so many row counts is as many contests, each over soon: its rival is hopelessly slow.
_RUN = ["profile", "many:make", "--device", "cpu", "--candidates", "impl", "--no-ways"]
_MANY = """
import time
import torch
from torch import nn
from twinkle_tune import register_external_layer, register_layer_kernel

class Norm(nn.Module):
    def forward(self, x):
        return x * 2

def slow(self, x):
    time.sleep(0.001)
    return x * 2

def make():
    register_external_layer(Norm, "Norm")
    register_layer_kernel("Norm", layer_impl=slow, device="cpu")
    return nn.Sequential(Norm()), [torch.ones(rows, 4) for rows in range(1, 41)]
"""


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """A run that writes p.json into the folder."""
    (folder / "many.py").write_text(_MANY, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "twinkle_tune.cli", *_RUN, "--out", str(folder / "p.json"), *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # tests that run under nohup ignore it
    )


def wait_for_contests(folder: Path, contests: int) -> None:
    """Return when the journal has that many."""
    ends_s = time.monotonic() + 150  # for a run that hangs; on a busy machine starting one takes a minute
    while time.monotonic() < ends_s:
        found = read_journal(folder / "p.json.journal")
        if found is not None and len(found.contests) >= contests:
            return
        time.sleep(0.02)
    pytest.fail("the run writes no journal")


def check_stopped(process: subprocess.Popen[str], tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The signal ends the run with this exit code, a valid partial profile, a journal, and a line that says so."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code
    partial, journal = load_profile(tmp_path / "p.json"), read_journal(tmp_path / "p.json.journal")
    assert journal is not None
    assert not partial.complete
    assert 1 <= len(partial.contests) <= len(journal.contests) <= len(partial.contests) + 1
    last = errors.splitlines()[-1]
    assert f"kept in {tmp_path}/p.json; go on with --resume" in last
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_partial_profile_and_the_journal(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The end of a terminal, and Ctrl-C, end a run as SIGTERM does below."""
    process = start(tmp_path)
    wait_for_contests(tmp_path, 2)
    check_stopped(process, tmp_path, number, code)


@pytest.mark.slow
def test_a_run_goes_on_with_resume(tmp_path: Path) -> None:
    """After a kill -9 a run without --resume is refused, and one with it takes over what was finished."""
    process = start(tmp_path)
    wait_for_contests(tmp_path, 3)
    process.kill()
    process.communicate()
    assert not (tmp_path / "p.json").exists()
    refused = start(tmp_path)
    _, errors = refused.communicate(timeout=300)
    assert refused.returncode == 2
    assert "finished contests of a run that was not finished; go on with it by --resume" in errors
    before = read_journal(tmp_path / "p.json.journal")
    assert before is not None
    resumed = start(tmp_path, "--resume")
    _, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    after = load_profile(tmp_path / "p.json")
    assert after.complete
    assert not (tmp_path / "p.json.journal").exists()
    by_key = {contest.workload.key: contest for contest in after.contests}
    assert all(by_key[c.workload.key].trials == c.trials for c in before.contests.values())


def test_a_second_run_on_the_device_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While a run goes on, another one with --no-wait is refused, and told which process has the device.

    SIGTERM leaves a partial profile of the first.
    """
    process = start(tmp_path)
    wait_for_contests(tmp_path, 2)
    assert run([*_COMMAND, "--out", str(tmp_path / "other.json"), "--no-wait"]) == 2
    check_stopped(process, tmp_path, signal.SIGTERM, 143)
    errors = capsys.readouterr().err
    assert f"device cpu is in use by another run (process {process.pid}: twinkle-tune profile many:make" in errors
    assert not (tmp_path / "other.json").exists()


_FULL = """
import os, resource, signal, sys
import torch
from twinkle_tune.cli.app import run
import twinkle_tune.profile.store, twinkle_tune.tune.tune

# What was imported has its bytecode by now; half of it is worse than none.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
sys.dont_write_bytecode = True
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
# Bytes a file: enough for the cache folder to be taken for usable, too few for the journal of a run.
resource.setrlimit(resource.RLIMIT_FSIZE, (17_000, 17_000))
sys.exit(run(sys.argv[1:]))
"""


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """Where nothing more can be written the run ends with one line, and no file is half written."""
    (tmp_path / "many.py").write_text(_MANY, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _FULL, *_RUN, "--out", str(tmp_path / "p.json"), "--in-process"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TWINKLE_TUNE_STORE": "off"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert "p.json.journal: the journal cannot be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "p.json").exists()
    read_journal(tmp_path / "p.json.journal")


def test_what_was_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under nohup a closed terminal does not end the run; and after the first signal others disturb nothing."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable() as stops:
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        assert stops.code == 143
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_are_as_before_afterwards(number: signal.Signals, code: int) -> None:
    """Within, they raise KeyboardInterrupt in the main thread and tell the exit code; afterwards nothing changed."""
    ours = signal.signal(number, signal.SIG_DFL)  # tests that run under nohup ignore SIGHUP
    try:
        with stoppable() as stops, pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert (stops.code, signal.getsignal(number)) == (code, signal.SIG_DFL)
    finally:
        signal.signal(number, ours)


def test_in_other_threads_signals_are_left_alone() -> None:
    """Only the main thread receives them: elsewhere nothing changes."""
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def elsewhere() -> None:
        with stoppable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]


def test_resume_and_fresh_together(capsys: pytest.CaptureFixture[str]) -> None:
    """Both at once say contrary things, and are refused."""
    assert run([*_COMMAND, "--resume", "--fresh"]) == 2
    assert "--resume and --fresh: got both, expected one" in capsys.readouterr().err


def test_a_damaged_store_is_told_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A corrupt store is one line that names the file to move away; nothing is profiled."""
    store = Path(os.environ["TWINKLE_TUNE_CACHE"]) / "store.sqlite"
    store.write_bytes(json.dumps(["no", "database"] * 500).encode())
    assert run([*_COMMAND, "--out", str(tmp_path / "p.json")]) == 2
    assert f"{store}: the store is damaged" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
