"""The files around the code agree with each other and with what they promise."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins() -> dict[str, str]:
    """The exact versions of constraints.txt, by normalised name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def requirements() -> list[str]:
    """Every requirement of the project, the extras included."""
    extras = PROJECT["optional-dependencies"].values()
    return [*PROJECT["dependencies"], *(each for extra in extras for each in extra)]


@pytest.mark.parametrize("text", requirements())
def test_pins_lie_in_the_ranges(text: str) -> None:
    """The package takes the versions that its tests run with; Triton is torch's to pin."""
    requirement = Requirement(text)
    name = requirement.name.lower().replace("_", "-")
    if name == "triton":
        assert name not in pins()
    else:
        assert requirement.specifier.contains(pins()[name])


def test_ci_runs_what_the_readme_says() -> None:
    """CI runs the README's test command, and nothing but it."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
