"""Hub candidates in real contests: the good one may win, and whatever is wrong with the others is a reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.hub import faults
from tests.hub.client import use
from tests.hub.marks import torch_for_the_cpu
from tests.hub.repos import ACTIVATION, IDENT, build, marked
from tests.hub.server import LocalHub
from tests.tune.toy import QUICK, spin
from twinkle_tune import kernelize_model, load_profile, tune_model
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.source.hub_trust import PUBLISHERS_VARIABLE
from twinkle_tune.tune import settle
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.verify import verify_profile

REPO = "kernels-community/activation"
GOOD = f"hub:{REPO}:SiluAndMul@main"


class SiluAndMul(nn.Module):
    """The layer, which takes 300 µs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., 2 width) to (..., width)."""
        spin(300)
        x1, x2 = x.chunk(2, dim=-1)
        return nn.functional.silu(x1) * x2


class Model(nn.Module):
    """The layer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = SiluAndMul()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., 2 width) to (..., width)."""
        out: torch.Tensor = self.activation(x)
        return out


@pytest.fixture(autouse=True)
def _short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole model is timed for a moment only: these tests are about contests."""
    monkeypatch.setattr(settle, "SECONDS", 0.3)
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def registry(*repos: tuple[str, str]) -> Registry:
    """Layers of Hub repos at their main branch, registered for the model's layer."""
    made = Registry()
    register_external_layer(SiluAndMul, "SiluAndMulKernel", registry=made)
    for repo_id, name in repos:
        register_layer_kernel(
            "SiluAndMulKernel", repo_id=repo_id, layer_name=name, revision="main", device="cpu", registry=made
        )
    return made


def tuned(known: Registry, **options: object) -> Profile:
    """A profile with short races, of Hub candidates alone."""
    inputs = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    return tune_model(Model(), inputs, registry=known, settings=QUICK, candidates=["hub"], device="cpu", **options)  # type: ignore[arg-type]


def refusals(contest: Contest) -> dict[str, tuple[str, str]]:
    """Stage and reason of the trials that were refused."""
    return {
        t.candidate.removeprefix("hub:"): (t.outcome.stage, t.outcome.reason)
        for t in contest.trials
        if isinstance(t.outcome, Rejection)
    }


@torch_for_the_cpu
def test_contest(local_hub: LocalHub, tmp_path: Path) -> None:
    """The right layer wins and is pinned; each other one is refused for its own reason, a stranger's before it runs."""
    commit = local_hub.push(REPO, build(ACTIVATION))
    local_hub.push("stranger/activation", build(marked(ACTIVATION, str(tmp_path / "mark"))))
    local_hub.push("kernels-community/gpu", build(ACTIVATION, ("torch-cuda",)))
    local_hub.push("kernels-community/broken", build(ACTIVATION, version=2))
    local_hub.fault = faults.at("/broken/resolve", faults.half)
    others = ("stranger/activation", "kernels-community/none", "kernels-community/gpu", "kernels-community/broken")
    known = registry((REPO, "Wrong"), *((repo_id, "SiluAndMul") for repo_id in others), (REPO, "SiluAndMul"))
    profile = load_profile(tuned(known).save(tmp_path / "profile.json"))
    (contest,) = profile.contests
    assert contest.selection.winner == GOOD
    assert contest.trial(GOOD).commit == commit
    assert isinstance(contest.trial(GOOD).outcome, Measurement)
    told = refusals(contest)
    assert told.pop(f"{REPO}:Wrong@main")[0] == "parity"
    assert {stage for stage, _ in told.values()} == {"load"}
    expected = ("refused before any of its code", "no such kernel repo", "no build of commit", "not to the end")
    for repo_id, words in zip(others, expected, strict=True):
        assert words in told[f"{repo_id}:SiluAndMul@main"][1]
        assert contest.trial(f"hub:{repo_id}:SiluAndMul@main").digest == ""
    assert not (tmp_path / "mark").exists()


def test_moved_branch_after_a_run(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the branch moved, a profile applies and verifies at its commit; a new run measures the new one."""
    first = local_hub.push(REPO, build(ACTIVATION))
    known = registry((REPO, "SiluAndMul"))
    profile = tuned(known)
    assert profile.winners, profile.contests[0].selection.reason
    second = local_hub.push(REPO, build({**ACTIVATION, "layers.py": ACTIVATION["layers.py"] + "\nextra = 1\n"}))
    use(monkeypatch, local_hub, tmp_path / "cache")
    model, x = Model(), torch.randn(3, 8)
    expected = model(x)
    kernelize_model(model, profile=profile, registry=known, use_fallback=False)
    ((module,),) = [[m for name, m in sys.modules.items() if name.startswith(IDENT) and name.endswith(".layers")]]
    before = len(module.calls)
    assert first in str(module.__file__)
    torch.testing.assert_close(model(x), expected)
    assert len(module.calls) == before + 1
    checked = verify_profile(profile, Model(), torch.randn(4, 64), registry=known, settings=QUICK)
    assert not [problem for check in checked.checks for problem in check.problems]
    assert not checked.stale
    assert tuned(known).contests[0].trial(GOOD).commit == second != first


@pytest.mark.slow
def test_contest_in_a_worker(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker process Hub candidates are loaded, refused and pinned as in the run's own."""
    for name, value in local_hub.environment(tmp_path / "worker").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(PUBLISHERS_VARIABLE, "")
    use(monkeypatch, local_hub, tmp_path / "worker")
    commit = local_hub.push(REPO, build(ACTIVATION))
    local_hub.push("stranger/activation", build(marked(ACTIVATION, str(tmp_path / "mark"))))
    known = registry(("stranger/activation", "SiluAndMul"), (REPO, "SiluAndMul"))
    with Isolated() as executor:
        (contest,) = tuned(known, executor=executor).contests
    assert contest.selection.winner == GOOD
    assert (contest.trial(GOOD).commit, contest.trial("original").commit) == (commit, "")
    assert refusals(contest)["stranger/activation:SiluAndMul@main"][0] == "load"
    assert not (tmp_path / "mark").exists()
    assert "tried in the process of the run" not in contest.selection.reason
