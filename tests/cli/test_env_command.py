"""``twinkle-tune env``: what is here, and what is missing for what."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from twinkle_tune.cli.app import run
from twinkle_tune.cli.env import abilities

EVERYTHING = {"triton": "3.9", "transformers": "5.22", "kernels": "0.17", "liger-kernel": "0.8"}


def test_nothing_is_lacking_where_everything_is_here() -> None:
    """With every package, a GPU and a compiler nothing is reported as missing."""
    can = abilities(EVERYTHING, ("cpu", "cuda"), has_compiler=True)
    assert [each.what for each in can if each.lacks] == []


@pytest.mark.parametrize(
    ("package", "what"),
    [
        ("triton", "Triton candidates"),
        ("transformers", "presets, Hub models and local checkpoints"),
        ("kernels", "kernels from the Hub and local kernel repositories"),
        ("liger-kernel", "Liger candidates"),
    ],
)
def test_a_missing_package_says_how_to_get_it(package: str, what: str) -> None:
    """What needs a missing package names the command that installs it."""
    can = abilities(EVERYTHING | {package: ""}, ("cpu", "cuda"), has_compiler=True)
    (lacks,) = (each.lacks for each in can if each.what == what)
    assert lacks.startswith("pip install")


def test_without_gpu_and_compiler() -> None:
    """On a bare CPU machine everything but profiling on the CPU says what it needs."""
    can = abilities({}, ("cpu",), has_compiler=False)
    assert [each.what for each in can if not each.lacks] == ["profiling on the CPU"]


def test_for_persons_and_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    """Both forms show the versions that are installed and the device that is there."""
    assert run(["env"]) == 0
    text = capsys.readouterr().out
    assert run(["env", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["packages"]["torch"] == metadata.version("torch")  # which may lack the build that torch itself names
    assert data["devices"][0]["fingerprint"] in text
    assert {"what", "lacks"} == set(data["abilities"][0])
