"""A race of a real rival in a script's steps, from its judging to the next run, which applies what won."""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.script.scripted import Done, run_here
from tests.zoo.quick import Quick
from twinkle_tune import load_profile, register_layer_kernel
from twinkle_tune.kernel import setups
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.profile.folders import cache_folder
from twinkle_tune.script import rival_ways, rivals, session
from twinkle_tune.script.online import Online
from twinkle_tune.script.raced import STEP, Won
from twinkle_tune.script.tuning import tuned
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.strategy import Running

SCRIPT = """
import sys
import torch
from torch import nn

class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = 1e-6

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), RMSNorm(16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
scaler = torch.amp.GradScaler("cpu", enabled=sys.argv[1] == "float16", init_scale=2.0**20, growth_interval=20)
for step in range(int(sys.argv[2])):
    for part in range(2):
        with torch.autocast("cpu", dtype=torch.float16, enabled=scaler.is_enabled()):
            loss = model(torch.randn(4, 8)).float().pow(2).mean() / 2
        scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    print(f"loss {loss.item():.6f} {scaler.get_scale():.0f}")
    if step % 10 == 9:
        model.eval()
        with torch.no_grad():
            print(f"epoch {model(torch.ones(4, 8)).mean().item():.4f}")
        model.train()
print("random", torch.rand(1).item())
"""


class Told:
    """A clock by which the originals' step takes 100 µs, of which a layer's share is told, with noise of 3%."""

    def __init__(self, saves: float, seed: int) -> None:
        self.saves, self.chance, self.race = saves, random.Random(seed), Online.__new__(Online)

    def mark(self) -> int:
        """Nothing."""
        return 0

    def between_us(self, begin: int, end: int) -> float:
        """The originals' time, or what is left of it."""
        assert self.race._turns is not None
        left = 1.0 if self.race._turns.turn == ORIGINAL else 1 - self.saves
        return 100 * left * self.chance.lognormvariate(0, 0.03)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A kernel that is right, for the norm; it says when it was called. Judging is quick."""
    monkeypatch.setattr(rivals, "Isolated", lambda: nullcontext(Quick()))
    monkeypatch.setattr(rivals, "tuned", partial(tuned, candidates=["impl"]))
    ran: list[str] = []

    def right(self: Any, x: Tensor) -> Tensor:
        ran.append("right")
        out: Tensor = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight
        return out

    register_layer_kernel("RMSNorm", layer_impl=right, device="cpu", mode="train")
    monkeypatch.setattr(rivals, "right_ways", lambda *_: {})
    yield ran
    default_registry.clear()


def raced(monkeypatch: pytest.MonkeyPatch, saves: float, seed: int, *words: object) -> Done:
    """The script under ``--online``, in which the planted kernel saves such a share of a step."""

    def online(*args: Any, **options: Any) -> Online:
        clock = Told(saves, seed)
        clock.race = Online(*args, **options, clock=clock, seed=seed)
        return clock.race

    monkeypatch.setattr(session, "Online", online)
    return run_here("--then", "online", *words)


def assert_near(one: list[str], other: list[str], dtype: str) -> None:
    """Losses are apart by roundings, the scales of GradScaler not at all."""
    for mine, its in zip(one, other, strict=True):
        expected = [float(word) for word in mine.split()[1:]]
        close = pytest.approx(expected, rel=2e-3 if dtype == "float16" else 1e-5, abs=1e-4)
        assert [float(word) for word in its.split()[1:]] == close, (mine, its)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_raced_kept_and_applied(
    dtype: str, planted: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A kernel that takes 20% less in a layer that is half of a step stays within 60 steps, and runs from the first
    step on in the next run; with float16 autocast GradScaler leaves out the same steps as without it.
    """
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    plain = run_here(script, dtype, 60)
    first = raced(monkeypatch, 0.2 * 0.5, 0, script, dtype, 60)
    assert len(first.results) == len(plain.results) == 67
    assert_near(plain.results, first.results, dtype)
    scales = [float(line.split()[2]) for line in plain.results if line.startswith("loss")]
    assert (scales[0] > scales[5]) is (dtype == "float16")  # it has left out steps, in the race too
    assert any("RMSNorm stays" in line for line in first.told), first.told
    assert any("is kept for the next run" in line for line in first.told), first.told
    (kept,) = (cache_folder() / "models").glob("*.json")
    profile = load_profile(kept)
    assert profile.verdict.startswith("Raced in the script's own steps, over ")
    assert profile.steps[0].label == STEP
    assert profile.steps[0].ratio == pytest.approx(0.9, abs=0.03)
    assert profile.autocasts == ("" if dtype == "float32" else dtype,)
    planted.clear()
    second = run_here(script, dtype, 5)
    assert_near(plain.results[:5], second.results[:5], dtype)
    assert len(planted) == 10
    assert "its profile (train) is applied: 1 place" in second.told[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A way of running a model that is its forward, or something wrong, or raises."""

    how: str
    name: str = "planted"
    instead_of: str = ""
    after: str = ""
    traces_all: bool = True

    def why_not(self, model: nn.Module, *, trains: bool) -> str:
        """Any model."""
        return ""

    def running(self, model: nn.Module, backend: Any, traced: Any) -> Running:
        """The model's forward, at best."""

        def forward(self: Any, *args: Any) -> Any:
            if how == "raises":
                raise ValueError("no")
            out = type(self).forward(self, *args)
            return out if how == "right" else out * 1.01

        how = self.how
        return Running(root=forward)


@pytest.mark.parametrize("how", ["right", "wrong", "raises", "draws"])
def test_ways_of_running_the_model_race(how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A way takes turns where it computes the same, and stays where it is faster; else no step has it. A model that
    draws random numbers is not compiled.
    """
    monkeypatch.setattr(rivals, "Isolated", lambda: nullcontext(Quick()))
    monkeypatch.setattr(rivals, "tuned", partial(tuned, candidates=["original"]))
    for place in (rival_ways, setups):
        monkeypatch.setattr(place, "STRATEGIES", (Planted(how=how),))
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.replace("nn.ReLU()", "nn.Dropout(0.1)") if how == "draws" else SCRIPT)
    plain = run_here(script, "float32", 50)
    first = raced(monkeypatch, 0.2, 0, script, "float32", 50)
    assert plain.results == first.results
    found = list((cache_folder() / "models").glob("*.json"))
    assert len(found) == (how == "right"), first.told
    if found:
        profile = load_profile(found[0])
        assert [(setup.way, setup.label) for setup in profile.setups] == [("planted", STEP)]
        assert profile.compiled[0].ratio == pytest.approx(0.8, abs=0.03)
        assert "planted stays" in first.told[0]
        second = run_here(script, "float32", 5)
        assert plain.results[:5] == second.results[:5]
        assert "its profile (train) is applied: 1 place" in second.told[0]


def test_the_originals_are_no_winner() -> None:
    """Where they stay there is nothing to keep."""
    assert Won.of(ORIGINAL, "nobody was faster", {ORIGINAL: (1.0, 2.0)}) is None
