"""``twinkle-tune verify``: exit codes, what it prints, and what it does not take from a profile."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report import fabricate
from twinkle_tune.cli.app import run
from twinkle_tune.cli.recorded import Recorded, recorded_options
from twinkle_tune.errors import ModelError, RegistrationError
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Profile

TOY = """
import os
import time
import torch
from torch import nn
from twinkle_tune import register_external_layer, register_layer_kernel

class Slow(nn.Module):
    def forward(self, x):
        end = time.perf_counter_ns() + 200_000
        while time.perf_counter_ns() < end:
            pass
        return x * 2

def quick(self, x):
    if os.environ.get("TOY_MOOD") == "slow":
        return Slow.forward(self, Slow.forward(self, x) / 2)
    return x * 2.1 if os.environ.get("TOY_MOOD") == "wrong" else x * 2

def make():
    return nn.Sequential(Slow()), [torch.ones(4, 4)]

register_external_layer(Slow, "Slow")
register_layer_kernel("Slow", layer_impl=quick, device="cpu")
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A profile of a model from a factory, in which a registered kernel won; the factory can be imported."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "verified_toy.py").write_text(TOY, encoding="utf-8")
    made = folder / "p.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("TWINKLE_TUNE_CACHE", str(folder / "cache"))
        options = ["--device", "cpu", "--candidates", "impl", "--in-process", "--no-ways", "--out", str(made)]
        assert run(["profile", "verified_toy:make", *options]) == 0
        assert load_profile(made).winners
        yield made
    default_registry.clear()
    del sys.modules["verified_toy"]


@pytest.mark.parametrize(
    ("name", "code", "words", "where"),
    [
        ("", 0, "holds", []),  # in a worker process, as by default
        ("wrong", 1, "parity", ["--in-process"]),
        ("slow", 1, "slow:", ["--in-process"]),
    ],
)
def test_exit_codes(
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    code: int,
    words: str,
    where: list[str],
) -> None:
    """0 where everything holds, 1 where a winner is wrong or slower, with a table that says why."""
    monkeypatch.setenv("TOY_MOOD", name)  # it behaves otherwise, and its code stays the same
    assert run(["verify", str(toy), "verified_toy:make", *where]) == code
    assert words in capsys.readouterr().out.replace("\n", "")


def test_json_is_all_there_is_on_stdout(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json stdout is one document: each winner with its figures then and now."""
    assert run(["verify", str(toy), "verified_toy:make", "--in-process", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (check,) = told["checks"]
    assert (told["holds"], told["stale"], check["winner"], check["problems"]) == (True, [], "impl:quick", [])
    assert check["low"] <= check["ratio"] <= check["high"] < 1


def test_a_stale_profile_fails(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A profile of another environment is exit code 1 and says what changed."""
    made = load_profile(toy)
    stale = replace(made, environment=replace(made.environment, torch="1.0")).save(tmp_path / "stale.json")
    assert run(["verify", str(stale), "verified_toy:make", "--in-process"]) == 1
    assert "torch: 1.0 then" in capsys.readouterr().out


def test_errors_are_exit_code_2(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No profile, and a model that must be named, are errors that say what to do; a factory is never taken from it."""
    assert run(["verify", "gone.json"]) == 2
    assert "cannot be read as a profile" in capsys.readouterr().err
    assert run(["verify", str(toy)]) == 2
    assert "is neither a preset nor a Hub id, and code is not run because" in capsys.readouterr().err


def _made_by(command: str, name: str = "qwen3-tiny") -> Profile:
    made = fabricate.normal()
    return replace(made, command=command, model=replace(made.model, name=name))


def test_the_options_of_the_command_line_are_taken() -> None:
    """Sizes, dtype and layers of the profile's own command are used, its model where it is a preset or Hub id."""
    command = "twinkle-tune profile org/model --layers 2 --seq-len 8,16 --batch 1 --dtype bfloat16 --device cpu:0"
    assert recorded_options(_made_by(command), None, registered=False) == Recorded(
        model="org/model", device="cpu:0", dtype="bfloat16", batch="1", seq_len="8,16", layers="2"
    )
    other = recorded_options(_made_by("twinkle-tune profile a:b --device cuda:1"), "qwen3-tiny", registered=False)
    assert other == Recorded(model="qwen3-tiny")


@pytest.mark.parametrize("command", ["", "rm -rf /", "twinkle-tune profile", "twinkle-tune profile x --luck", "'"])
def test_a_command_that_is_none_is_passed_over(command: str) -> None:
    """Whatever stands in the field, at most the model's name is taken, and nothing is run."""
    assert recorded_options(_made_by(command), None, registered=False) == Recorded(model="qwen3-tiny")


@pytest.mark.parametrize("name", ["os:system", "../model", "/etc/passwd", "./x", "model", "a/b/c", ""])
def test_code_and_paths_are_not_taken_from_a_profile(name: str) -> None:
    """A factory, a path or nonsense in the place of the model is an error that asks for MODEL."""
    with pytest.raises(ModelError, match="name the model: twinkle-tune verify PROFILE MODEL"):
        recorded_options(_made_by("", name), None, registered=False)


def test_files_that_a_profile_names_are_not_run(tmp_path: Path) -> None:
    """A profile made with --register does not run that file: the user is asked to repeat the option."""
    evil = tmp_path / "evil.py"
    evil.write_text("raise SystemExit('run')", encoding="utf-8")
    made = _made_by(f"twinkle-tune profile qwen3-tiny --register {evil}")
    with pytest.raises(RegistrationError, match=f"if you trust them, repeat with --register {evil}"):
        recorded_options(made, None, registered=False)
    assert recorded_options(made, None, registered=True).model == "qwen3-tiny"


def test_a_hostile_profile_is_only_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line, hostile texts of a profile are escaped in every format."""
    path = fabricate.hostile().save(tmp_path / "p.json")
    assert run(["report", str(path), "--format", "html", "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img src=http" not in page
    for form in ("terminal", "md"):
        capsys.readouterr()
        assert run(["report", str(path), "--format", form]) == 0
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert "alert" in shown
    assert run(["verify", str(path), "qwen3-tiny", "--layers", "1", "--seq-len", "8"]) == 1
    assert "\x1b[31m" not in capsys.readouterr().out
