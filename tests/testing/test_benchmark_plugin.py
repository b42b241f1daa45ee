"""The conventions of benchmarks, by running pytest in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed: the fixture reports through it")

ROOT = Path(__file__).parents[2]
SUITE = """
import pytest, torch

def by_square(x): return x * x
def by_power(x): return x.pow(2)

@pytest.mark.parametrize("implementation", [by_square, by_power], ids=["square", "power"])
@pytest.mark.parametrize("shape", [(2, 8), (4, 8)], ids=str)
def test_benchmark_square(benchmark_kernel, implementation, shape):
    given = benchmark_kernel(implementation, torch.ones(shape))
    assert given.shape == shape

def test_benchmark_race(benchmark_kernel):
    def slow(x):
        for _ in range(40):
            x = x * 1.0
        return x
    benchmark_kernel(torch.clone, torch.ones(64), original=slow)

def test_plain():
    pass
"""


def _pytest(
    folder: Path, *options: str, suite: str = SUITE, benchmarks: bool = True
) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(suite)
    # The checkout's plugin by name, whether or not some version of the package is installed.
    load = ["-p", "twinkle_tune.testing.plugin", "-p", "no:cacheprovider"]
    load += ["-p", "pytest_benchmark.plugin"] if benchmarks else []
    # A run of its own, which is nobody's worker: else pytest-benchmark times nothing.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    env = {**own, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", *load, *options]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a run says, and pytest-benchmark's JSON."""
    folder = tmp_path_factory.mktemp("grouped")
    by = "--benchmark-group-by=fullfunc,param:implementation,param:shape"
    ran = _pytest(folder, "-k", "benchmark and not race", by, "--benchmark-json=it.json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout, json.loads((folder / "it.json").read_text())


def test_benchmarks_are_chosen_by_name(grouped: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    """-k benchmark takes all of them and nothing else, -k "not benchmark" the rest."""
    assert "4 passed, 2 deselected" in grouped[0]
    assert "1 passed, 5 deselected" in _pytest(tmp_path, "-k", "not benchmark").stdout


def test_benchmarks_are_grouped(grouped: tuple[str, dict[str, Any]]) -> None:
    """By function, implementation and shape; a round is a burst, a time that of one call in seconds."""
    tables = [line for line in grouped[0].splitlines() if " benchmark 'test_it.py::test_benchmark_square" in line]
    assert len(tables) == 4, grouped[0]
    benchmarks = grouped[1]["benchmarks"]
    for each in benchmarks:
        assert each["stats"]["rounds"] == 12
        assert 0 < each["stats"]["min"] <= each["stats"]["max"] < 1


def test_a_race_is_reported(tmp_path: Path) -> None:
    """Against an original the extra information has the ratio with its interval, and who is faster."""
    ran = _pytest(tmp_path, "-k", "race", "--benchmark-json=it.json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (made,) = json.loads((tmp_path / "it.json").read_text())["benchmarks"]
    told = made["extra_info"]
    assert told["low"] <= told["ratio"] <= told["high"] < 1
    assert told["faster"] is True
    assert told["rounds"] == made["stats"]["rounds"]


def test_a_parameter_that_a_test_lacks_is_named(tmp_path: Path) -> None:
    """An error of usage with the test and what it has, before anything runs."""
    ran = _pytest(tmp_path, "--benchmark-group-by=param:layout")
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "param:layout is no parameter of test_it.py::test_benchmark_square" in ran.stderr
    assert "it has implementation, shape" in ran.stderr or "it has shape, implementation" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_benchmark_has_its_name(tmp_path: Path) -> None:
    """One of another name would be run by -k "not benchmark"."""
    ran = _pytest(tmp_path, suite="def test_speed(benchmark_kernel):\n    pass\n")
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_speed: it uses benchmark_kernel, expected a name that starts with test_benchmark_" in ran.stderr


def test_without_pytest_benchmark_the_fixture_says_so(tmp_path: Path) -> None:
    """It fails with what to install."""
    suite = "def test_benchmark_it(benchmark_kernel):\n    pass\n"
    ran = _pytest(tmp_path, suite=suite, benchmarks=False)
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED
    assert "pip install pytest-benchmark" in ran.stdout


def test_disabled_benchmarks_run_once(tmp_path: Path) -> None:
    """With --benchmark-disable they are plain tests."""
    assert "5 passed, 1 deselected" in _pytest(tmp_path, "--benchmark-disable", "-k", "benchmark").stdout
