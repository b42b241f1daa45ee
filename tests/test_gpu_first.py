"""The first run on a CUDA machine: it goes on whatever a part does, and says what failed. No device is needed here."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import gpu_first, gpu_ready
from tests.gpu_first import NO_DEVICE, Part, first_parts, run_parts, second_parts

ROOT = Path(__file__).parents[1]


def part(name: str, code: str, *, limit_s: float = 60.0, asks_for_device: bool = False) -> Part:
    """A part that runs a line of Python."""
    return Part(name=name, limit_s=limit_s, command=("-c", code), asks_for_device=asks_for_device)


def test_a_part_that_dies_or_hangs_loses_its_own_result_only(tmp_path: Path) -> None:
    """One is killed, one hangs with a child that holds its output, one fails; the others' results are kept."""
    hangs = "import subprocess, time; subprocess.Popen(['sleep', '600']); print('began', flush=True); time.sleep(600)"
    parts = [
        part("fine", "print('all is well')"),
        part("killed", "import os; os.kill(os.getpid(), 9)"),
        part("hangs", hangs, limit_s=4.0),
        part("wrong", "raise SystemExit('a wrong value')"),
        part("last", "print('still here')"),
    ]
    assert run_parts(parts, tmp_path, "first") == 1
    done = json.loads((tmp_path / "first.json").read_text())
    assert [each["outcome"] for each in done] == ["passed", "failed", "too long", "failed", "passed"]
    assert "ended by signal 9" in done[1]["output"]
    assert "began" in done[2]["output"]
    page = (tmp_path / "first.md").read_text()
    order = re.findall(r"^## (.*): ", page, re.MULTILINE)
    assert order == ["killed", "hangs", "wrong", "fine", "last"], "what did not pass stands on top"
    assert "a wrong value" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.json", "first.md"]


def test_without_a_device_nothing_else_is_tried(tmp_path: Path) -> None:
    """The part that asks for the device ends with 2: the others are not run, and the exit code is 2."""
    marker = tmp_path / "ran"
    parts = [part("machine", "raise SystemExit(2)", asks_for_device=True), part("next", f"open({str(marker)!r}, 'w')")]
    assert run_parts(parts, tmp_path / "", "first") == 2
    assert not marker.exists()
    assert [each["outcome"] for each in json.loads((tmp_path / "first.json").read_text())] == [NO_DEVICE] * 2


def test_the_runs_fit_their_time() -> None:
    """All limits together are at most nine minutes, and four; what it writes is in the output folder."""
    out = Path("/somewhere")
    assert sum(each.limit_s for each in first_parts(out)) <= 9 * 60
    assert sum(each.limit_s for each in second_parts(out)) <= 4 * 60
    for each in (*first_parts(out), *second_parts(out)):
        writes = "twinkle_tune.cli" in each.command or "tests.bench" in " ".join(each.command)
        assert not writes or any(str(out) in argument for argument in each.command)


def test_the_parts_are_commands_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option of a part is one that its command has: a renamed one would fail on the device first."""

    @functools.cache
    def help_of(*command: str) -> str:
        done = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
        return done.stdout

    for each in (*first_parts(Path("out")), *second_parts(Path("out"))):
        module = each.command[1]
        command = [sys.executable, "-m", module, *(["profile"] if "profile" in each.command else [])]
        if module in ("pytest", "tests.gpu_first"):
            continue
        monkeypatch.setenv("COLUMNS", "200")
        told = help_of(*command)
        options = {argument for argument in each.command[2:] if argument.startswith("--")}
        assert options <= set(re.findall(r"--[a-z-]+", told)), each.name


def test_only_a_run_with_a_device_is_published(tmp_path: Path) -> None:
    """Without a run, or with one that found no device, there is no page to write."""
    with pytest.raises(SystemExit, match=r"neither first\.json nor second\.json"):
        gpu_first.publish(tmp_path)
    run_parts([part("machine", "raise SystemExit(2)", asks_for_device=True)], tmp_path, "first")
    with pytest.raises(SystemExit, match="found no CUDA device"):
        gpu_first.publish(tmp_path)


def test_what_a_needed_package_needs_is_missed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is there and cannot be imported for want of another names the other."""
    (tmp_path / "half_a_package.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert gpu_ready.missing_for("half_a_package") == "a_package_that_nobody_has"
    assert gpu_ready.missing_for("json") == ""


def test_the_makefile_adds_to_the_path(tmp_path: Path) -> None:
    """Packages that were carried to the machine lie in folders of PYTHONPATH: they are found by the GPU targets."""
    (tmp_path / "carried_package.py").write_text("")
    program = "import carried_package, twinkle_tune; print('found both')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    makefile = ROOT / "Makefile"
    line = f'print-it:\n\t@$(ON_GPU) -c "{program}"\n'
    done = subprocess.run(
        ["make", "-s", "-f", str(makefile), "-f", "-", "print-it", f"PYTHON={sys.executable}"],
        input=line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.stdout == "found both\n", done.stderr
