"""Model families of the catalog, from profile to applied in a new process and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.capture.tiny_models import FAMILIES, inputs_of, tiny
from tests.today import of_today
from tests.zoo.quick import quick_profile
from twinkle_tune.mode import Mode
from twinkle_tune.testing import with_winner

# The first test waits for all profiles and a process that applies them.
pytestmark = pytest.mark.timeout(900)
MODES = (Mode.INFERENCE, Mode.TRAIN)
CASES = [(family, mode) for mode in MODES for family in FAMILIES]
TODAY = of_today(CASES, 4)
Verdicts = dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """Of those of today."""
    return _verdicts(TODAY, tmp_path_factory.mktemp("today"))


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """Of each family in both modes."""
    return _verdicts(CASES, tmp_path_factory.mktemp("every"))


def _verdicts(cases: Sequence[tuple[str, Mode]], folder: Path) -> Verdicts:
    """By "family mode", what a new process says that loaded the profiles which this one made."""
    for family, mode in cases:
        # Every contest is won by its best candidate that is right, faster or not: more is bound than a race allows.
        with_winner(quick_profile(tiny(family), inputs_of(mode), mode)).save(folder / f"{family} {mode}.json")
    program = Path(__file__).with_name("apply_profiles.py")
    root = str(program.parent.parent)
    said = subprocess.run(
        [sys.executable, str(program), str(folder)],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert said.returncode == 0, said.stderr
    found: Verdicts = json.loads(said.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("family", "mode"), TODAY)
def test_a_profile_is_applied_in_a_new_process(family: str, mode: Mode, today: Verdicts) -> None:
    """Kernels are bound, outputs and gradients of the whole model pass the parity rule, and restoring is exact."""
    _check(today[f"{family} {mode}"])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "mode"), CASES)
def test_every_profile_is_applied_in_a_new_process(family: str, mode: Mode, every: Verdicts) -> None:
    """The same of each family in both modes."""
    _check(every[f"{family} {mode}"])


def _check(said: dict[str, object]) -> None:
    assert said["bound"], said
    assert said["verdict"] == "Pass", said
    assert said["restored"], said
    assert said["warnings"] == [], said
