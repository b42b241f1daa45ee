"""Model families of the catalog, from profile to applied in a new process and back."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.capture.tiny_models import FAMILIES, inputs_of, tiny
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Measurement, Selection
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.tune.tune import tune_model

# The first test waits for twelve profiles and a process that applies them.
pytestmark = pytest.mark.timeout(900)
MODES = (Mode.INFERENCE, Mode.TRAIN)
CASES = [(family, mode) for family in FAMILIES for mode in MODES]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """By "family mode", what a new process says that loaded the profiles which this one made."""
    folder = tmp_path_factory.mktemp("profiles")
    for family, mode in CASES:
        profile = tune_model(
            tiny(family), inputs_of(mode), mode=mode, candidates=["torch"], settings=RaceSettings(max_rounds=9)
        )
        _everything_right(profile).save(folder / f"{family} {mode}.json")
    program = Path(__file__).with_name("apply_profiles.py")
    root = str(program.parent.parent)
    said = subprocess.run(
        [sys.executable, str(program), str(folder)],
        capture_output=True,
        text=True,
        cwd=root,
        env={**_environment(), "PYTHONPATH": root},
    )
    assert said.returncode == 0, said.stderr
    found: dict[str, dict[str, object]] = json.loads(said.stdout.splitlines()[-1])
    return found


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def _everything_right(profile: Profile) -> Profile:
    """Every contest won by its best candidate that is right, faster or not: more is bound than a race would allow."""
    return replace(profile, contests=tuple(_with_a_winner(contest) for contest in profile.contests))


def _with_a_winner(contest: Contest) -> Contest:
    right = {t.candidate: t.outcome for t in contest.trials if isinstance(t.outcome, Measurement)}
    original = right.pop("original")
    if not right:
        return contest
    best = min(right, key=lambda name: right[name].median_us)
    ratio = paired_ratio(right[best].times_us, original.times_us)
    selection = Selection(winner=best, ratio=ratio.ratio, low=ratio.low, high=ratio.high, reason="chosen by the test")
    return replace(contest, selection=selection)


@pytest.mark.parametrize(("family", "mode"), CASES)
def test_a_profile_is_applied_in_a_new_process(family: str, mode: Mode, verdicts: dict[str, dict[str, object]]) -> None:
    """Kernels are bound, outputs and gradients of the whole model pass the parity rule, and restoring is exact."""
    said = verdicts[f"{family} {mode}"]
    assert said["bound"], said
    assert said["verdict"] == "Pass", said
    assert said["restored"], said
    assert said["warnings"] == [], said
