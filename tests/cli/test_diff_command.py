"""``twinkle-tune diff``: what changed, and an exit code for CI."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report import fabricate
from twinkle_tune.cli.app import run
from twinkle_tune.profile.schema import Profile

BEFORE = fabricate.normal()


def files(folder: Path, after: Profile) -> list[str]:
    """Both profiles on disk."""
    return [str(BEFORE.save(folder / "before.json")), str(after.save(folder / "after.json"))]


def slower(profile: Profile) -> Profile:
    """The same, with the first step slower than its original."""
    first, *rest = profile.steps
    return replace(profile, steps=(replace(first, ratio=1.2, low=1.19, high=1.21), *rest))


def test_the_same_profile_has_no_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, one line that says so; with --all also what is the same."""
    paths = files(tmp_path, BEFORE)
    assert run(["diff", *paths]) == 0
    assert capsys.readouterr().out.startswith("no regression among ")
    assert run(["diff", *paths, "--all"]) == 0
    assert "same: step prefill 1x128" in capsys.readouterr().out


def test_a_slower_step_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The regression is named with both figures and their intervals."""
    assert run(["diff", *files(tmp_path, slower(BEFORE))]) == 1
    out = capsys.readouterr().out
    assert "regression: step prefill 1x128: 0.920 (0.910 to 0.930) → 1.200 (1.190 to 1.210)" in out
    assert "1 regression among" in out


def test_a_faster_step_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen from the slower profile the other one is a gain."""
    paths = files(tmp_path, slower(BEFORE))
    assert run(["diff", *reversed(paths)]) == 0
    assert "gain: step prefill 1x128" in capsys.readouterr().out


def test_json_is_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The changes, the environment's and the number of regressions, and nothing else on stdout."""
    other = replace(slower(BEFORE), environment=replace(BEFORE.environment, torch="2.99.0"))
    assert run(["diff", *files(tmp_path, other), "--json"]) == 1
    made = json.loads(capsys.readouterr().out)
    assert made["worse"] == 1
    assert any(line.startswith("torch: ") for line in made["environment"])
    assert {change["kind"] for change in made["changes"]} >= {"regression", "same"}


def test_profiles_of_different_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One error with both, what was expected and what to use instead; exit code 2."""
    other = replace(BEFORE, model=replace(BEFORE.model, name="another"))
    assert run(["diff", *files(tmp_path, other)]) == 2
    error = capsys.readouterr().err
    assert "another" in error
    assert "expected the same model, mode, dtype, device and objective" in error
    assert "twinkle-tune report" in error
