"""``twinkle-tune tune``: what it refuses, in one line and with exit code 2; and what it shows and writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.search.benches import Replay
from tests.search.synthetic import row_kernel
from twinkle_tune.cli.app import run
from twinkle_tune.cli.tune import evidence, parse_shape
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import TuneError
from twinkle_tune.fleet.searching import Search
from twinkle_tune.ops.all import op_named
from twinkle_tune.search.record import SearchResult, SearchSettings
from twinkle_tune.search.search import search

ROOT = Path(__file__).parents[2]


def found() -> SearchResult:
    """A search on a made-up landscape."""
    landscape = row_kernel()
    default = next(landscape.space.configs())
    return search(landscape.space, Replay(landscape, 0), SearchSettings(budget=30), default=default)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense", "--shape", "1x1"], "op: got 'nonsense', expected one of rms_norm"),
        (["rms_norm", "--shape", "2048"], "--shape: got '2048', expected rowsxwidth of rms_norm, such as 2048x4096"),
        (["rms_norm", "--shape", "0x4096"], "--shape: got '0x4096'"),
        (["rms_norm", "--shape", "8x64", "--dtype", "int8"], "--dtype: got 'int8', expected one of float32"),
        (["rms_norm", "--shape", "8x64", "--variant", "llama"], "--variant: got 'llama', expected one of"),
        (["rms_norm", "--shape", "8x64", "--mode", "compile"], "--mode: got 'compile', expected one of inference"),
        (["rms_norm", "--shape", "8x64", "--budget", "5m"], "--budget: got '5m', expected a whole number"),
        (["rms_norm", "--shape", "8x64", "--device", "cpu"], "--device: got 'cpu', expected cuda"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["tune", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "rms_norm", "--shape", "8x64"]) == 2
    assert "device: got 'cuda'" in capsys.readouterr().err


def test_the_interpreter_never_says_how_fast(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert run(["tune", "rms_norm", "--shape", "8x64"]) == 2
    assert "got TRITON_INTERPRET=1" in capsys.readouterr().err


def test_a_shape_is_read_by_the_op_s_names() -> None:
    op = op_named("rms_norm")
    assert parse_shape("2048x4096", op) == {"rows": 2048, "width": 4096}
    with pytest.raises(TuneError, match="--shape: got '1x2x3'"):
        parse_shape("1x2x3", op)


def test_the_evidence_is_json_with_all_that_was_tried() -> None:
    """Environment, winner, every config tried and the final race's times survive writing and reading."""
    result = found()
    op, environment = op_named("rms_norm"), current_environment("cpu")
    data = evidence(op, {"rows": 1, "width": 2}, "bfloat16", "", "train", environment, {"forward": result})
    again = json.loads(json.dumps(data))
    assert again["config"] == result.config
    assert len(again["searches"]["forward"]["tried"]) == len(result.tried)
    assert again["searches"]["forward"]["finalists"][0]["times_us"]
    assert again["environment"]["torch"] == torch.__version__


_TWICE = """
from twinkle_tune.cli import app, tune

tune._gpu = lambda device: ("cpu", "cpu")
command = "tune rms_norm --shape 4x64 --mode inference --dtype float32 --budget 3 --json --study shared/study"
for out in ("1.json", "2.json"):
    assert app.run([*command.split(), "--out", out]) == 0
"""


def test_a_shared_search_goes_on_where_another_was(tmp_path: Path) -> None:
    """A second machine with the same --study takes what the first tried, and both keep the study's file."""
    # In a process of its own: once Triton is imported it is too late to interpret.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", _TWICE], cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    outs = [tmp_path / "1.json", tmp_path / "2.json"]
    first, second = (json.loads(out.read_text())["searches"]["forward"]["tried"] for out in outs)
    assert len(first) == 3
    assert first == second
    assert (tmp_path / "shared" / "study").exists()
    assert not list(tmp_path.glob("*.journal"))


def test_a_search_on_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cluster is asked what the command was asked, and what it found is written."""
    asked: list[tuple[str | None, str, Search]] = []

    def searched(address: str | None, device: str, what: Search, say: object) -> dict[str, SearchResult]:
        asked.append((address, device, what))
        return {"forward": found()}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("twinkle_tune.cli.tune._gpu", lambda device: ("cpu", "cpu"))
    monkeypatch.setattr("twinkle_tune.fleet.ray_devices.import_ray", lambda: None)
    monkeypatch.setattr("twinkle_tune.fleet.searching.searched", searched)
    words = ["tune", "rms_norm", "--shape", "4x64", "--dtype", "float32", "--budget", "9", "--out", "found.json"]
    assert run([*words, "--executor", "ray://alpha:6379", "--study", "/shared/study"]) == 0
    ((address, device, what),) = asked
    assert (address, device, what.op, dict(what.dims)) == ("alpha:6379", "cpu", "rms_norm", {"rows": 4, "width": 64})
    assert (what.dtype, what.trains, what.settings.budget, what.study) == ("float32", True, 9, "/shared/study")
    assert json.loads(Path("found.json").read_text())["config"] == found().config
    capsys.readouterr()


@pytest.mark.parametrize(
    ("executor", "ray_address", "said"),
    [
        ("ray://alpha:6379", "", "--study: got none with a cluster"),
        ("ray", "alpha:6379", "--study: got none with a cluster"),
        ("slurm", "", "--executor: got 'slurm', expected 'ray', or 'ray://HOST:PORT'"),
    ],
)
def test_a_cluster_needs_a_study_that_its_machines_share(
    executor: str, ray_address: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each machine would try what another has tried."""
    monkeypatch.setattr("twinkle_tune.fleet.ray_devices.import_ray", lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    assert run(["tune", "rms_norm", "--shape", "8x64", "--executor", executor]) == 2
    assert said in capsys.readouterr().err


def test_a_search_on_a_cluster_without_ray_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is searched."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(["tune", "rms_norm", "--shape", "8x64", "--executor", "ray"]) == 2
    assert "pip install 'twinkle_tune[ray]'" in capsys.readouterr().err
