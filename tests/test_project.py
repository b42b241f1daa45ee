"""The files around the code agree with each other and with what they promise."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(file: str = "constraints.txt") -> dict[str, str]:
    """The exact versions of a file, by normalised name."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in pairs}


EXTRAS = PROJECT["optional-dependencies"]
# What users may install as well (an extra of its own) is no tool.
TOOLS = {*EXTRAS["dev"], *EXTRAS["docs"]} - {*EXTRAS["parquet"], *EXTRAS["postgres"]}


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


@pytest.mark.parametrize("text", requirements())
def test_the_oldest_versions_are_the_lower_bounds(text: str) -> None:
    """``make oldest`` runs what users may install: the lower bounds themselves, and tools that lie in their ranges."""
    requirement = Requirement(text)
    version = pins("oldest.txt")[requirement.name.lower().replace("_", "-")]
    assert requirement.specifier.contains(version)
    if text in TOOLS or requirement.name == "huggingface_hub":
        return
    (bound,) = (each.version for each in requirement.specifier if each.operator == ">=")
    assert Version(version) == Version(bound)


def test_the_oldest_versions_run_the_same_tests() -> None:
    """``make oldest`` is ``make test`` with another file of versions and an environment of its own."""
    done = subprocess.run(
        ["make", "-n", "oldest", "PYTHON=python3"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    commands = [line for line in done.stdout.splitlines() if "pytest" in line or "pip install" in line]
    assert all(".venv-oldest/bin/python" in line for line in commands)
    assert [line for line in commands if "pytest" in line] == [
        '.venv-oldest/bin/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder'
    ]
    assert all("-c oldest.txt" in line for line in commands if "pip install" in line)


def test_ci_runs_what_the_readme_says() -> None:
    """CI runs the README's test command, and nothing but it."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
