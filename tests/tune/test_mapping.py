"""An HF mapping as a user registers it, contested: with a Hub on this machine, through the real client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kernels import LayerRepository, use_kernel_forward_from_hub, use_kernel_mapping
from torch import nn

from tests.coexistence.tiny import tiny_llama, tokens, transformers_names_layers
from tests.hub.client import use
from tests.hub.repos import ACTIVATION, build
from tests.hub.server import LocalHub
from tests.tune.toy import QUICK, spin
from twinkle_tune import kernelize_model, kernelize_report, load_profile, restore_model, tune_model
from twinkle_tune.kernel import Registry
from twinkle_tune.outcome import Measurement, Rejection

REPO = "kernels-community/activation"


@use_kernel_forward_from_hub("SlowNorm")
class SlowNorm(nn.Module):
    """An RMSNorm that takes 400 µs, so that it is known who wins."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(16) + 0.5)
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., 16) to (..., 16)."""
        spin(400)
        scaled = hidden_states * torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * scaled


@pytest.fixture
def commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The commit of the repo on a Hub that the client of this process talks to."""
    with LocalHub() as hub:
        use(monkeypatch, hub, tmp_path / "cache")
        yield hub.push(REPO, build(ACTIVATION))


def _mapping(name: str, layer: str) -> dict[str, Any]:
    return {name: {"cpu": LayerRepository(REPO, layer_name=layer, revision="main")}}


def test_a_mapped_kernel_is_contested_applied_and_restored(commit: str, tmp_path: Path) -> None:
    """A user's mapping brings the winner; restoring gives bit-identical outputs and leaves class and instance alone."""
    model, x = nn.Sequential(SlowNorm(), nn.Linear(16, 16), SlowNorm()), torch.randn(8, 16)
    before, attributes, instances = model(x), dict(vars(SlowNorm)), [dict(m.__dict__) for m in model]
    with use_kernel_mapping(_mapping("SlowNorm", "RMSNorm")):
        profile = tune_model(model, x, registry=Registry(), settings=QUICK, candidates=["hub"])
        (contest,) = profile.contests
        assert contest.slot.name == "SlowNorm"
        assert contest.selection.winner == f"hub:{REPO}:RMSNorm@main"
        assert contest.trial(contest.selection.winner).commit == commit
        kernelize_model(model, profile=load_profile(profile.save(tmp_path / "p.json")), use_fallback=False)
    assert [b.candidate for b in kernelize_report(model).bound] == [contest.selection.winner] * 2
    torch.testing.assert_close(model(x), before)
    restore_model(model)
    assert torch.equal(model(x), before)
    assert dict(vars(SlowNorm)) == attributes
    assert [dict(m.__dict__) for m in model] == instances


@pytest.mark.usefixtures("commit")
def test_a_wrong_mapped_kernel_is_refused() -> None:
    """A mapped kernel that computes something else is judged as any other, and is never applied."""
    model = nn.Sequential(SlowNorm())
    with use_kernel_mapping(_mapping("SlowNorm", "Wrong")):
        profile = tune_model(model, torch.randn(8, 16), registry=Registry(), settings=QUICK, candidates=["hub"])
    (contest,) = profile.contests
    assert contest.selection.winner == "original"
    assert isinstance(contest.trials[1].outcome, Rejection)


@transformers_names_layers
@pytest.mark.usefixtures("commit")
def test_a_mapped_kernel_of_a_transformers_class() -> None:
    """The norms of a transformers model are contested by what is mapped for their kernel name, without use_kernels."""
    with use_kernel_mapping(_mapping("RMSNorm", "RMSNorm")):
        profile = tune_model(
            tiny_llama(), {"input_ids": tokens()}, registry=Registry(), settings=QUICK, candidates=["hub"], budget_s=60
        )
    contests = [contest for contest in profile.contests if contest.slot.name == "RMSNorm"]
    assert contests
    for contest in contests:
        assert isinstance(contest.trial(f"hub:{REPO}:RMSNorm@main").outcome, Measurement)
