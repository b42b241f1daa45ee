"""The first run on a CUDA machine: it goes on whatever a part does, and says what failed. No device is needed here."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import gpu_first, gpu_machine, gpu_part, gpu_ready
from tests.gpu_first import NO_DEVICE, Part, first_parts, run_parts, second_parts

ROOT = Path(__file__).parents[1]
ABSENT = [name for name in gpu_ready.USED if find_spec(name) is None]


def part(name: str, code: str, *, limit_s: float = 60.0) -> Part:
    """A part that runs a line of Python."""
    return Part(name=name, limit_s=limit_s, command=("-c", code))


def test_a_part_that_dies_or_hangs_loses_its_own_result_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is killed, one hangs with a child that holds its output, one fails; the others' results are kept."""
    hangs = "import subprocess, time; subprocess.Popen(['sleep', '600']); print('began', flush=True); time.sleep(600)"
    parts = [
        part("fine", "print('all is well')"),
        part("killed", "import os; os.kill(os.getpid(), 9)"),
        part("hangs", hangs, limit_s=4.0),
        part("wrong", "raise SystemExit('a wrong value')"),
        part("last", "print('still here')"),
    ]
    assert run_parts(parts, tmp_path, "first") == 2 + 4 + 8
    assert "exit code 14: killed (failed), hangs (too long), wrong (failed)\n" in capsys.readouterr().out
    done = json.loads((tmp_path / "first.json").read_text())
    assert [each["outcome"] for each in done] == ["passed", "failed", "too long", "failed", "passed"]
    assert "ended by signal 9" in done[1]["output"]
    assert "began" in done[2]["output"]
    page = (tmp_path / "first.md").read_text()
    order = re.findall(r"^## (.*): ", page, re.MULTILINE)
    assert order == ["killed", "hangs", "wrong", "fine", "last"], "what did not pass stands on top"
    assert "a wrong value" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.json", "first.md"]


def test_a_part_whose_time_is_up_writes_down_what_it_has(tmp_path: Path) -> None:
    """It is interrupted as by Ctrl-C a little before its limit, which it keeps all the same."""
    wait = "time.sleep(60)"
    code = f"import time\ntry:\n    {wait}\nexcept KeyboardInterrupt:\n    print('kept', flush=True)\n    {wait}"
    assert run_parts([part("slow", code, limit_s=5.0)], tmp_path, "first") == 1
    (done,) = json.loads((tmp_path / "first.json").read_text())
    assert (done["outcome"], done["output"]) == ("too long", "kept\n")
    assert done["seconds"] < 7


def test_a_killed_part_does_not_hold_up_the_next(tmp_path: Path) -> None:
    """A child that outlives it, with its output still open, is killed too: nothing waits for it until the limit."""
    code = "import os, subprocess; subprocess.Popen(['sleep', '600']); os.kill(os.getpid(), 9)"
    assert run_parts([part("killed", code), part("next", "print('here')")], tmp_path, "first") == 1
    done = json.loads((tmp_path / "first.json").read_text())
    assert "ended by signal 9" in done[0]["output"]
    assert done[0]["seconds"] < 30


def test_every_test_for_a_device_is_in_a_part() -> None:
    """Those that time are alone, after the others; the command takes its options, and says each failure as it comes."""
    parity, timing = first_parts(Path("out"))[1:3]
    marked = {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/**/test_*.py") if is_marked(path)}
    files = [[each for each in part.command if each.endswith(".py")] for part in (parity, timing)]
    assert marked <= {*files[0], *files[1]}
    assert {each.split("/")[1] for each in files[1]} == {"measure", "tune"}
    assert not set(files[0]) & set(files[1])
    command = [argument for argument in parity.command[2:] if not argument.endswith(".py")]
    done = subprocess.run(
        [sys.executable, "-m", *command, "tests/measure/test_state.py"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@functools.cache
def help_of(*command: str) -> str:
    """What a command says of itself."""
    done = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout


def is_marked(path: Path) -> bool:
    """Whether a test of the file carries the mark."""
    mark = re.compile(r"^(@|pytestmark = \[?)pytest\.mark\.gpu", re.MULTILINE)
    return mark.search(path.read_text(encoding="utf-8")) is not None


def test_no_part_passes_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asks for one first, whatever became of the part before it: else all tests would be skipped, and pass."""
    for each in (*first_parts(Path("out")), *second_parts(Path("out"))):
        assert each.command[:2] == ("-m", "tests.gpu_part") or each.command[1:] == ("tests.gpu_first", "--machine")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu_part.main() == gpu_machine.machine() == 64


def test_a_part_runs_as_the_main_module_where_there_is_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its own arguments and its own exit code."""
    (tmp_path / "a_part.py").write_text("import sys; print(__name__, sys.argv[1:]); sys.exit(7)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["gpu_part.py", "a_part", "--quick"])
    with pytest.raises(SystemExit, match="7"):
        gpu_part.main()
    assert capsys.readouterr().out == "__main__ ['--quick']\n"


def test_a_failure_is_told_before_the_run_is_over(tmp_path: Path) -> None:
    """The plugin's line stands in front of what pytest prints at its end."""
    (tmp_path / "test_wrong.py").write_text("def test_it():\n    assert 1 == 2\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.gpu_told", "test_wrong.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout.index("FAILED test_wrong.py::test_it (call): assert 1 == 2") < done.stdout.index("= FAILURES =")


def test_all_figures_of_a_device_have_limits_and_one_folder(tmp_path: Path) -> None:
    """Each command that ``make gpu`` would run has the budget or the minutes that were asked for, and the folder."""
    done = subprocess.run(
        ["make", "-n", "gpu", f"PYTHON={sys.executable}", "BUDGET=90s", "MINUTES=3", f"OUT={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    commands = [line for line in done.stdout.replace("\\\n", "").splitlines() if " -m " in line]
    long = [line for line in commands if "tests.gpu_ready" not in line]
    assert len(long) == 5
    for line in long:
        assert "--budget 90s" in line or "--minutes 3" in line, line
        assert f"--out {tmp_path}/gpu" in line, line
    told = help_of(sys.executable, "-m", "tests.bench.models")
    assert {"--budget", "--out"} <= set(re.findall(r"--[a-z]+", told))


def test_without_a_device_nothing_else_is_tried(tmp_path: Path) -> None:
    """A part that finds no device ends with 64: those behind it are not run; the exit code tells of those before it."""
    marker = tmp_path / "ran"
    parts = [part("machine", "raise SystemExit(64)"), part("next", f"open({str(marker)!r}, 'w')")]
    assert run_parts([part("killed", "import os; os.kill(os.getpid(), 9)"), *parts], tmp_path, "second") == 64 + 1
    assert run_parts(parts, tmp_path / "", "first") == 64
    assert not marker.exists()
    assert [each["outcome"] for each in json.loads((tmp_path / "first.json").read_text())] == [NO_DEVICE] * 2


def test_the_runs_fit_their_time() -> None:
    """All limits together are at most nine minutes, and five; what it writes is in the output folder."""
    out = Path("/somewhere")
    assert sum(each.limit_s for each in first_parts(out)) <= 9 * 60
    assert sum(each.limit_s for each in second_parts(out)) <= 5 * 60
    for each in (*first_parts(out), *second_parts(out)):
        writes = "twinkle_tune.cli" in each.command or "tests.bench" in " ".join(each.command)
        assert not writes or any(str(out) in argument for argument in each.command)


def test_the_parts_are_commands_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option of a part is one that its command has: a renamed one would fail on the device first."""

    for each in (*first_parts(Path("out")), *second_parts(Path("out"))):
        module = each.command[2]
        command = [sys.executable, "-m", module, *(["profile"] if "profile" in each.command else [])]
        if module in ("pytest", "--machine"):
            continue
        monkeypatch.setenv("COLUMNS", "200")
        told = help_of(*command)
        options = {argument for argument in each.command[3:] if argument.startswith("--")}
        assert options <= set(re.findall(r"--[a-z-]+", told)), each.name


def test_only_a_run_with_a_device_is_published(tmp_path: Path) -> None:
    """Without a run, or with one that found no device, there is no page to write."""
    with pytest.raises(SystemExit, match=r"neither first\.json nor second\.json"):
        gpu_first.publish(tmp_path)
    run_parts([part("machine", "raise SystemExit(64)")], tmp_path, "first")
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
    # Below another make (`make oldest`) it would print its folder.
    beside = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    environment = {**beside, "PYTHONPATH": str(tmp_path)}
    makefile = ROOT / "Makefile"
    line = f'print-it:\n\t@$(ON_GPU) -c "{program}"\n'
    done = subprocess.run(
        ["make", "-s", "-f", str(makefile), "-f", "-", "print-it", f"PYTHON={sys.executable}"],
        input=line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.stdout == "found both\n", done.stderr


def test_what_is_missing_is_named_with_its_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run needs, and what it would only use, each with the lines that bring them; torch is fetched by none."""
    monkeypatch.setattr(gpu_ready, "missing_for", lambda name: name if name in ("optuna", "pydantic") else "")
    told = gpu_ready.what_is_missing()
    wheels = "optuna colorlog pydantic pydantic-core annotated-types typing-inspection"
    assert "lacks optuna, pydantic: where there is a network 'pip download --no-deps --only-binary=:all: " in told
    assert f"--dest wheels {wheels}', here 'pip install --no-index --no-deps" in told
    absent = ("liger_kernel", "kernels", "pynvml")
    monkeypatch.setattr(gpu_ready, "find_spec", lambda name: None if name in absent else name)
    told = gpu_ready.what_would_be_used()
    assert told.startswith("without liger_kernel, kernels, pynvml, which would be used: ")
    assert "--dest wheels liger-kernel kernels nvidia-ml-py'" in told


_IMPORTED = """
import sys
import torch, triton, transformers, pandas, typer, rich, jinja2, huggingface_hub, pytest, sympy, tqdm.auto
before = set(name.partition(".")[0] for name in sys.modules)
import {names}
there = (name for name, module in sys.modules.items() if "site-packages" in (getattr(module, "__file__", None) or ""))
print(*sorted(set(name.partition(".")[0] for name in there) - before))
"""


def test_the_wheels_bring_all_that_is_imported() -> None:
    """Beside torch and transformers what the wheels bring imports nothing that does not come along."""
    names = [name for name in (*gpu_ready.NEEDED, *gpu_ready.USED) if name in gpu_ready.WHEELS and name not in ABSENT]
    code = _IMPORTED.format(names=", ".join(["optuna.storages", *names]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    wheels = {wheel.replace("-", "_") for each in gpu_ready.WHEELS.values() for wheel in each}
    assert set(done.stdout.split()) - {"xdist", "pynvml", "colorama"} <= wheels, "and colorama, which is tried alone"
