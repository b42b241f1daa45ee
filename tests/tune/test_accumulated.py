"""Training steps of several micro-batches: what competes is judged and timed on them, and the profile says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.strategy.planted import Layers, compiled_by
from tests.tune.toy import QUICK
from twinkle_tune import kernelize_model, load_profile, tune_model
from twinkle_tune.contest import model as model_stage
from twinkle_tune.kernel import Registry
from twinkle_tune.report.head import again, facts
from twinkle_tune.strategy.compile_model import CompileModel
from twinkle_tune.tune.verify import verify_profile


@pytest.mark.usefixtures("compiled_anew")
def test_ways_compete_in_the_whole_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Timed with the optimizer's step, and applied to a micro-batch's call; the profile is verified on as many."""
    graphs = compiled_by(monkeypatch)
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    for place in ("way_contest", "way_figures"):
        monkeypatch.setattr(f"twinkle_tune.tune.{place}.STRATEGIES", (CompileModel(),))
    model, x = Layers().train(), torch.randn(4, 8)
    profile = tune_model(
        model, x, mode="train", registry=Registry(), settings=QUICK, candidates=["original"], ways=True, accumulate=2
    )
    (way,) = profile.compiled
    assert (way.label, way.problem) == ("train *2", "")
    assert graphs
    assert (profile.accumulate, profile.terms.accumulate) == (2, 2)
    profile = load_profile(profile.save(tmp_path / "p.json"))
    assert profile.accumulate == 2
    assert dict(facts(profile))["Training step"].startswith("forward, backward of 2 micro-batches")
    assert "accumulate=2" in again(profile)
    assert verify_profile(profile, model, x, registry=Registry(), settings=QUICK).checks == ()
    kernelize_model(model, profile=profile)
    model(x).sum().backward()
