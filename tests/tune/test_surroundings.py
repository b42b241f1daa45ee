"""What a worker process leaves: nothing among the temporary files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from twinkle_tune.errors import TuneError
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.mark import Mark
from twinkle_tune.tune.process import WorkerProcess


def test_temporary_files_go_with_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has a folder of its own for temporary files, which goes with it; inductor's cache is not in there."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with tempfile.TemporaryFile() as task:
        mark = Mark()
        worker = WorkerProcess(Limits(), "cpu", task, mark)
        pairs = Path(f"/proc/{worker.pid}/environ").read_text().split("\0")
        own = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        (Path(own["TMPDIR"]) / "cc123.s").write_text("left by a compiler that was killed")
        assert Path(own["TMPDIR"]).parent == Path(own["TORCHINDUCTOR_CACHE_DIR"]).parent == tmp_path
        worker.stop()
        mark.close()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_cannot_be_started_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be started, the folder goes as well, also for a user without a name."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.setattr("subprocess.Popen", refuse)
    mark = Mark()
    with (tmp_path / "task").open("w+b") as task, pytest.raises(TuneError, match="cannot be started"):
        WorkerProcess(Limits(), "cpu", task, mark)
    mark.close()
    assert [path.name for path in tmp_path.iterdir()] == ["task"]
