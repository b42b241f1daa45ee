"""``twinkle-tune diff``: what changed, and an exit code for CI."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report import fabricate
from twinkle_tune.cli.app import run
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.schema import Profile, StepResult

BEFORE = fabricate.normal()


def files(folder: Path, after: Profile) -> list[str]:
    """Both profiles on disk."""
    return [str(BEFORE.save(folder / "before.json")), str(after.save(folder / "after.json"))]


def slower(profile: Profile) -> Profile:
    """The same, with the first step slower than its original."""
    first, *rest = profile.steps
    return replace(profile, steps=(replace(first, ratio=1.2, low=1.19, high=1.21), *rest))


def lost(profile: Profile) -> Profile:
    """The same, with the first contest kept by the original: the originals run in every step, and nothing is slower."""
    first, *rest = profile.contests
    kept = replace(
        first, selection=Selection(winner="original", rounds=8, reason="no clear winner", status="no clear winner")
    )
    steps = tuple(StepResult(label=step.label) for step in profile.steps)
    return replace(profile, contests=(kept, *rest), steps=steps)


def untried(profile: Profile) -> Profile:
    """The same run, stopped before any contest was held."""
    nothing = Selection(winner="original", reason="not tried: the time budget was used up")
    contests = tuple(replace(c, trials=(), selection=nothing, confirmation=()) for c in profile.contests)
    steps = tuple(StepResult(label=step.label) for step in profile.steps)
    return replace(profile, contests=contests, steps=steps)


def test_the_same_profile_has_no_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0; the whole model stands first, and --all shows also what is the same."""
    paths = files(tmp_path, BEFORE)
    assert run(["diff", *paths]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "The whole model, against its original:"
    assert out[1].startswith("  prefill 1x128: 8.0% faster, 0.920 (0.910 to 0.930) → 8.0% faster")
    assert out[-1].startswith("nothing slower, nothing faster, of ")
    assert run(["diff", *paths, "--all"]) == 0
    assert "The same:" in capsys.readouterr().out


def test_a_slower_step_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The step is named with both figures, in words and with their intervals."""
    assert run(["diff", *files(tmp_path, slower(BEFORE))]) == 1
    out = capsys.readouterr().out
    assert "prefill 1x128: 8.0% faster, 0.920 (0.910 to 0.930) → 20.0% slower, 1.200 (1.190 to 1.210)" in out
    assert out.splitlines()[-1].startswith("1 slower, of ")


def test_a_faster_step_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen from the slower profile the other one is faster."""
    paths = files(tmp_path, slower(BEFORE))
    assert run(["diff", *reversed(paths)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 faster, of ")


def test_a_lost_winner_is_not_slower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A slot that goes back to its original is listed apart and fails only where --fail-on names it."""
    paths = files(tmp_path, lost(BEFORE))
    assert run(["diff", *paths]) == 0
    out = capsys.readouterr().out
    assert "Lost a winner" in out
    assert "RMSNorm float32[1,128,256]: fused, 20.0% faster, 0.800 (0.790 to 0.810) → original" in out
    assert "  prefill 1x128: 8.0% faster, 0.920 (0.910 to 0.930) → the original runs" in out
    assert "lower" not in out
    assert [run(["diff", *paths, "--fail-on", each]) for each in ("lost", "lost,step", "5%,step")] == [1, 1, 0]


def test_fail_on_takes_a_share_and_the_whole_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A step that is 30% slower fails at 5% and not at 40%; with "step" a slower slot alone does not fail."""
    paths = files(tmp_path, slower(BEFORE))
    assert [run(["diff", *paths, "--fail-on", each]) for each in ("5%", "40%", "step", "step,40%")] == [1, 0, 1, 0]
    first, *rest = BEFORE.contests
    slot = replace(first, selection=replace(first.selection, ratio=0.9, low=0.89, high=0.91))
    paths = files(tmp_path, replace(BEFORE, contests=(slot, *rest)))
    assert [run(["diff", *paths, "--fail-on", each]) for each in ("", "step")] == [1, 0]
    capsys.readouterr()
    assert run(["diff", *paths, "--fail-on", "5 percent"]) == 2
    assert "expected step, lost, a percentage such as 5%" in capsys.readouterr().err


def test_sizes_that_are_never_called_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A contest of a size that was only probed is neither shown nor a failure; --all shows it as what it is."""
    first, *rest = BEFORE.contests
    probe = replace(first, seen=())
    before = replace(BEFORE, contests=(probe, *rest)).save(tmp_path / "b.json")
    worse = replace(probe, selection=replace(first.selection, ratio=0.9, low=0.89, high=0.91))
    after = replace(BEFORE, contests=(worse, *rest)).save(tmp_path / "a.json")
    assert run(["diff", str(before), str(after)]) == 0
    assert "RMSNorm" not in capsys.readouterr().out
    assert run(["diff", str(before), str(after), "--all"]) == 0
    assert "(the model never calls this size)" in capsys.readouterr().out


def test_nothing_to_compare_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A profile whose budget ran out before the first contest is no pass: the error says how little was measured."""
    assert run(["diff", *files(tmp_path, untried(BEFORE))]) == 2
    error = capsys.readouterr().err
    assert "nothing to compare: 2 of 2 contests measured in BEFORE, 0 of 2 contests measured in AFTER" in error


def test_another_machine_is_the_first_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Times of 2 and of 8 threads are told apart before any figure."""
    other = replace(BEFORE, environment=replace(BEFORE.environment, threads=8))
    assert run(["diff", *files(tmp_path, other)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "Measured differently: threads: 2 then, 8 now. Compare ratios, not times."


def test_markdown_is_for_a_pull_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole model stands outside of the folds, what is slower too; the exit code is the same."""
    assert run(["diff", *files(tmp_path, slower(BEFORE)), "--format", "md"]) == 1
    lines = capsys.readouterr().out.split("\n\n")
    assert lines[0].startswith("**Slower.** 1 slower, of ")
    assert lines[1].startswith("- prefill 1x128: 8.0% faster")
    assert run(["diff", *files(tmp_path, lost(BEFORE)), "--format", "md"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("**No loss.**")
    assert "<summary>Lost a winner 1</summary>" in text


def test_json_is_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The changes, the environment's and the number of regressions, and nothing else on stdout."""
    other = replace(slower(BEFORE), environment=replace(BEFORE.environment, torch="2.99.0"))
    assert run(["diff", *files(tmp_path, other), "--json"]) == 1
    made = json.loads(capsys.readouterr().out)
    assert (made["worse"], made["refused"]) == (1, 1)
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
