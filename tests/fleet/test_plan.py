"""A plan of many profiles: what it may say, and what becomes of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.report import fabricate
from twinkle_tune.cli import fleet as command
from twinkle_tune.cli.app import run
from twinkle_tune.fleet.plan import OPTIONS, PlanError, read_plan
from twinkle_tune.profile.io import load_profile

WHOLE = """
folder = "made"
models = ["qwen3-tiny", "llama-tiny"]
modes = ["inference", "train"]
devices = ["cpu"]
executor = "ray"

[options]
candidates = "torch"
seq-len = 32
ways = false
register = ["a.py", "b.py"]
"""


def written(folder: Path, text: str = WHOLE) -> Path:
    """A plan's file."""
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def test_a_plan_is_each_model_in_each_mode_on_each_device(tmp_path: Path) -> None:
    """Its folder lies beside it, and options are words of a command line."""
    plan = read_plan(written(tmp_path))
    assert plan.folder == tmp_path / "made"
    assert [each.title for each in plan.profiles] == [
        "qwen3-tiny, inference, cpu", "qwen3-tiny, train, cpu", "llama-tiny, inference, cpu", "llama-tiny, train, cpu",
    ]  # fmt: skip
    told = "--candidates torch --seq-len 32 --no-ways --register a.py --register b.py"
    assert plan.options == tuple(told.split())


def test_models_are_enough(tmp_path: Path) -> None:
    """The mode is inference then, the device the best of this machine, and the folder is called as the plan."""
    plan = read_plan(written(tmp_path, 'models = ["m"]'))
    assert [(each.model, each.mode, each.device) for each in plan.profiles] == [("m", "inference", "")]
    assert (plan.folder, plan.executor, plan.options) == (tmp_path / "plan", "", ())


BAD = {
    "no models": ("", r"models: got \[\], expected a list of texts; write models = \[\"\.\.\.\"\]"),
    "models that are a text": ('models = "m"', r"models: got 'm', expected a list of texts"),
    "an empty model": ('models = [" "]', r"models: got \[' '\], expected a list"),
    "a model twice": ('models = ["m", "n", "m"]', r"models: got m more than once"),
    "no TOML": ("models = [", r"not valid TOML \(.*\), expected a plan"),
    "an unknown key": ('models = ["m"]\nmodle = 1', r"got modle, expected one of models, modes, devices, folder"),
    "an unknown mode": ('models = ["m"]\nmodes = ["fast"]', r"modes: .*'fast'"),
    "another machine without a cluster": (
        'models = ["m"]\ndevices = ["twinkle:cuda:0:b"]',
        r"devices: got twinkle:cuda:0:b without an executor; write executor",
    ),
    "an unknown option": ('models = ["m"]\n[options]\nspeed = 1', r"options: got speed, expected an option"),
    "an option of its own": ('models = ["m"]\n[options]\nout = "x"', r"options: got out, expected an option"),
    "options that are a list": ('models = ["m"]\noptions = []', r"options: got \[\], expected a table"),
    "an option that is a table": (
        'models = ["m"]\n[options.dtype]\na = 1',
        r"options: dtype: got \{'a': 1\}, expected a text",
    ),
    "a folder that is a number": ('models = ["m"]\nfolder = 1', r"folder: got 1, expected a text"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_plan_is_one_clear_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the file, what was got and what is expected; the exit code is 2 and nothing is made."""
    text, message = BAD[case]
    path = written(tmp_path, text)
    assert run(["fleet", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"{re.escape(str(path))}: {message}", line)
    assert [*tmp_path.iterdir()] == [path]


def test_a_plan_that_is_not_there_is_said(tmp_path: Path) -> None:
    """With the path."""
    with pytest.raises(PlanError, match=r"gone\.toml: cannot be read"):
        read_plan(tmp_path / "gone.toml")


def test_every_option_of_a_plan_is_one_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A plan may give no option that ``profile`` does not have."""
    assert run(["profile", "--help"]) == 0
    told = capsys.readouterr().out
    assert {name for name in OPTIONS if f"--{name}" not in told} == set()


class Making:
    """In the place of the processes that make profiles: fails for models whose name says so."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, plan: Any, planned: Any, path: Path, *, fresh: bool) -> Any:
        """Write a profile."""
        self.made.append(planned.title)
        if "broken" in planned.model:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        fabricate.normal().save(path)
        return fabricate.normal()


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Making:
    """It, in place."""
    made = Making()
    monkeypatch.setattr(command, "_make", made)
    return made


def test_one_failure_does_not_stop_a_plan(tmp_path: Path, making: Making, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest is made and compared; the exit code is 1 and says which failed; the next time only that is tried."""
    path = written(tmp_path, 'models = ["one", "broken", "two"]\ndevices = ["cpu"]')
    assert run(["fleet", str(path)]) == 1
    shown = capsys.readouterr()
    assert "1 of 3 failed (broken, inference, cpu); the same command tries them again" in shown.err
    assert "[3/3] two, inference, cpu: " in shown.out
    assert {file.name for file in tmp_path.rglob("*.*")} == {
        "plan.toml", "one-inference.json", "two-inference.json", "comparison.html",
    }  # fmt: skip
    assert "one-inference.json" in (tmp_path / "plan" / "comparison.html").read_text()
    making.made.clear()
    assert run(["fleet", str(path)]) == 1
    assert making.made == ["broken, inference, cpu"]


def test_fresh_makes_all_anew_and_a_dry_run_nothing(
    tmp_path: Path, making: Making, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run says what would be made."""
    path = written(tmp_path, 'models = ["one", "two"]')
    assert run(["fleet", str(path), "--dry-run"]) == 0
    assert (making.made, [*tmp_path.iterdir()]) == ([], [path])
    assert "[2/2] two, inference: to be made: " in capsys.readouterr().out
    assert run(["fleet", str(path)]) == 0
    assert run(["fleet", str(path), "--fresh"]) == 0
    assert len(making.made) == 4


@pytest.mark.slow
def test_what_models_have_in_common_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two models of the same layers the second takes the first one's contests; once made, they stay."""
    monkeypatch.setenv("TWINKLE_TUNE_STORE", str(tmp_path / "store.sqlite"))
    path = written(
        tmp_path,
        'models = ["tests.fleet.gated:small", "tests.fleet.gated:deeper"]\ndevices = ["cpu"]\n'
        '[options]\ncandidates = "torch"\nways = false',
    )
    assert run(["fleet", str(path)]) == 0
    first, second = (load_profile(file) for file in sorted((tmp_path / "plan").rglob("*.json"), reverse=True))
    assert first.model.name.endswith("small")
    assert first.run is not None
    assert second.run is not None
    held = [contest for contest in first.contests if contest.trials]
    assert held
    assert second.run.recalled == len(held)
    assert run(["fleet", str(path)]) == 0
