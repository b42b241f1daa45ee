"""The five strangers' scripts, tuned in earnest after they ended, and run again with what was kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.script.scripted import STRANGERS, Done
from tests.script.test_strangers import SCRIPTS, assert_same_results

ROOT = Path(__file__).parents[2]


def command(*words: object) -> Done:
    """The command line, in a process of its own."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True, text=True, timeout=580, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_tuned_after_and_applied_next_time(name: str, tmp_path: Path) -> None:
    """Plain, tuned after, and applied next time: the same losses, tokens, counts and random numbers."""
    if name == "trainer_lora":
        pytest.importorskip("peft")
    script = STRANGERS / f"{name}.py"
    run = ("-m", "twinkle_tune.cli", "run")
    plain = command(script, tmp_path)
    first = command(*run, "--then", "profile", "--budget", "20s", "--", sys.executable, script, tmp_path)
    assert plain.results == first.results
    assert any("kept for the next run" in line for line in first.told), first.err
    again = command(*run, "--", sys.executable, script, tmp_path)
    assert_same_results(plain, again)
    assert all("its profile (" in line for line in again.told if "form" in line), again.err


@pytest.mark.slow
def test_one_line_tunes_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``import twinkle_tune.auto`` in it and TWINKLE_TUNE_THEN=profile the script is tuned when it has ended."""
    script = tmp_path / "train.py"
    script.write_text("import twinkle_tune.auto\n" + (STRANGERS / "classifier.py").read_text())
    monkeypatch.setenv("TWINKLE_TUNE_THEN", "profile")
    first = command(script)
    assert first.code == 0, first.err
    assert any("kept for the next run" in line for line in first.told), first.err
    monkeypatch.delenv("TWINKLE_TUNE_THEN")
    second = command(script)
    assert_same_results(first, second)
    assert "its profile (train)" in second.told[0]
