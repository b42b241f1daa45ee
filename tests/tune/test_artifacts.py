"""Compiled code in a folder of its own: a process that is pointed at it compiles nothing anew."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kernel.test_setups import profile_of
from tests.strategy.planted import Layers, compiled_by
from twinkle_tune.profile.schema import Profile, StepResult
from twinkle_tune.tune.artifacts import PLACE, compile_all, compiled_into, size_of

TWICE = """
import sys
import torch
from pathlib import Path
from tests.kernel.test_setups import profile_of
from tests.strategy.planted import Layers
from tests.tune.test_artifacts import with_steps
from torch._dynamo.utils import counters
from twinkle_tune import kernelize_model
from twinkle_tune.tune.artifacts import compile_all, compiled_into

torch.manual_seed(0)
model, x = Layers().eval(), torch.randn(4, 8)
profile = with_steps(profile_of(model, "compile", ((x,), {})))
if sys.argv[1:]:
    with compiled_into(Path(sys.argv[1])):
        compile_all(model, x, profile)
else:
    kernelize_model(model, profile=profile)
    with torch.no_grad():
        model(x)
print(counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"])
"""


def with_steps(profile: Profile) -> Profile:
    """The profile, whose steps name the forward."""
    return replace(profile, steps=(StepResult(label="forward"),))


@pytest.mark.usefixtures("compiled_anew")
def test_each_step_is_run_as_it_is_applied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where a run took all answers from the store; afterwards the model and the place are as they were."""
    seen: list[str | None] = []

    def made(graph: Any) -> Callable[..., Any]:
        seen.append(os.environ.get(PLACE))
        return graph.forward  # type: ignore[no-any-return]

    compiled_by(monkeypatch, made)
    monkeypatch.setenv(PLACE, "/usual")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/usual/triton")
    model, x = Layers().eval(), torch.randn(4, 8)
    with compiled_into(tmp_path / "code"):
        assert "TRITON_CACHE_DIR" not in os.environ
        compile_all(model, x, with_steps(profile_of(model, "compile", ((x,), {}))))
    assert seen == [str(tmp_path / "code")]
    assert (os.environ[PLACE], os.environ["TRITON_CACHE_DIR"]) == ("/usual", "/usual/triton")
    assert "forward" not in vars(model)


@pytest.mark.slow
def test_a_process_that_is_pointed_at_a_moved_folder_compiles_nothing(tmp_path: Path) -> None:
    """Its graph is a hit, and no library is written: the compiler did not run."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(*arguments: str, **more: str) -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", TWICE, *arguments],
            env={**environment, **more}, capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
        return [int(count) for count in done.stdout.split()[-2:]]

    assert run(str(tmp_path / "here")) == [1, 0]
    assert size_of(tmp_path / "here") > 10_000
    shutil.move(tmp_path / "here", tmp_path / "there")
    libraries = set((tmp_path / "there").rglob("*.so"))
    assert libraries
    assert run(**{PLACE: str(tmp_path / "there")}) == [0, 1]
    assert set((tmp_path / "there").rglob("*.so")) == libraries
