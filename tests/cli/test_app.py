"""The command line as a whole: help, version, errors and exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import twinkle_tune
from twinkle_tune.cli.app import main, run
from twinkle_tune.errors import ModelError

ROOT = Path(__file__).parents[2]


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "twinkle_tune.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_help_imports_no_torch() -> None:
    """``--help`` names every command, and imports none of what takes long."""
    code = (
        "import sys; from twinkle_tune.cli.app import run; code = run(['--help']); "
        "heavy = {'torch', 'transformers', 'pandas', 'rich', 'pydantic'} & set(sys.modules); "
        "print('heavy:', heavy); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in ("profile", "report", "list", "verify", "env", "store"))
    assert "heavy: set()" in done.stdout


@pytest.mark.parametrize("command", ["profile", "report", "list", "verify", "env", "store"])
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains itself."""
    assert run([command, "--help"]) == 0
    assert f"Usage: twinkle-tune {command}" in capsys.readouterr().out


@pytest.mark.parametrize("group", [[], ["store"]])
def test_each_line_of_help_is_whole_in_80_columns(group: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No description of a command is cut off in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = started(*group, "--help").stdout.partition("Commands:")[2].splitlines()
    assert len(lines) > 2
    assert all(line.endswith(".") and not line.endswith("..") for line in lines if line)


def test_version() -> None:
    """``--version`` is the package's version."""
    done = started("--version")
    assert (done.returncode, done.stdout) == (0, f"twinkle-tune {twinkle_tune.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile"], "Missing argument 'MODEL'"),
        (["profil", "qwen3-tiny"], "No such command 'profil'"),
        (["profile", "qwen3-tiny", "--bach", "1"], "No such option: --bach"),
        (["profile", "qwen3-tiny", "--layers", "two"], "--layers: got 'two', expected a whole number"),
        (["profile", "qwen3-tiny", "--mode", "fast"], "mode: got 'fast', expected one of inference, train"),
        (["profile", "qwen3-tiny", "--device", "tpu"], "device: got 'tpu', expected one of cpu, cuda"),
        (["profile", "qwen3-tin", "--device", "cpu"], "did you mean qwen3-tiny"),
        (["profile", "qwen3-tiny", "--batch", "none"], "--batch: got 'none'"),
        (["profile", "qwen3-tiny", "--budget", "soon"], "--budget: got 'soon'"),
        (["profile", "qwen3-tiny", "--device", "cpu", "--report", "page.pdf"], "--report: got 'page.pdf'"),
        (["profile", "qwen3-tiny", "--device", "cpu", "--out", "tests"], "tests is a folder"),
        (["profile", "qwen3-tiny", "--device", "cpu", "--out", "README.md/p.json"], "README.md is a file"),
        (["list", "qwen3-tin"], "did you mean qwen3-tiny"),
        (["list", "qwen3-tiny", "--mode", "fast"], "mode: got 'fast'"),
        (["report", "no/such/profile.json"], "no/such/profile.json"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad input ends with exit code 2, one line on stderr and nothing on stdout."""
    monkeypatch.chdir(ROOT)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("twinkle-tune: error: ")
    assert message in err
    assert (out, err.count("\n")) == ("", 1)


def test_the_process_ends_with_the_exit_code() -> None:
    """The exit code of a run is that of the process, and there is no traceback."""
    done = started("profile", "qwen3-tiny", "--mode", "fast")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--debug", "list", "nope"], ["list", "nope", "--debug"]])
def test_debug_raises(arguments: list[str]) -> None:
    """With --debug, wherever it stands, the error is raised with its traceback."""
    with pytest.raises(ModelError):
        run(arguments)


def test_debug_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """TWINKLE_TUNE_DEBUG=1 does what --debug does, and 0 does not."""
    monkeypatch.setenv("TWINKLE_TUNE_DEBUG", "0")
    assert run(["list", "nope"]) == 2
    monkeypatch.setenv("TWINKLE_TUNE_DEBUG", "1")
    with pytest.raises(ModelError):
        run(["list", "nope"])


def test_modules_of_the_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``python -m``, the folder that the command is called in is on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    with pytest.raises(SystemExit):
        main(["--version"])
    assert sys.path[0] == str(tmp_path)
