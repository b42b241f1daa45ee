"""Model families of the catalog, from profile to applied in a new process and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.capture.tiny_models import FAMILIES, inputs_of, tiny
from tests.zoo.quick import quick_profile
from twinkle_tune.mode import Mode
from twinkle_tune.testing import with_winner

# The first test waits for twelve profiles and a process that applies them.
pytestmark = pytest.mark.timeout(900)
MODES = (Mode.INFERENCE, Mode.TRAIN)
CASES = [(family, mode) for family in FAMILIES for mode in MODES]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """By "family mode", what a new process says that loaded the profiles which this one made."""
    folder = tmp_path_factory.mktemp("profiles")
    for family, mode in CASES:
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
    found: dict[str, dict[str, object]] = json.loads(said.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("family", "mode"), CASES)
def test_a_profile_is_applied_in_a_new_process(family: str, mode: Mode, verdicts: dict[str, dict[str, object]]) -> None:
    """Kernels are bound, outputs and gradients of the whole model pass the parity rule, and restoring is exact."""
    said = verdicts[f"{family} {mode}"]
    assert said["bound"], said
    assert said["verdict"] == "Pass", said
    assert said["restored"], said
    assert said["warnings"] == [], said
