"""The experts of a tiny Mixtral, contested, applied and restored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from tests.zoo.quick import SETTINGS, Quick
from twinkle_tune import kernelize_model, kernelize_report, restore_model, tune_model
from twinkle_tune.catalog.experts import experts_contestants, is_experts
from twinkle_tune.kernel import Registry
from twinkle_tune.outcome import Measurement, Selection


def _tiny_mixtral(implementation: str) -> Any:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    model = MixtralForCausalLM(config).eval()
    model.set_experts_implementation(implementation)
    return model


def test_who_competes() -> None:
    """A class of experts is known by what transformers' decorator gives it; what it is set to is the original."""
    model = _tiny_mixtral("eager")
    (experts,) = [module for module in model.modules() if is_experts(module)]
    assert type(experts) is MixtralExperts
    assert [c.name for c in experts_contestants(experts)] == ["experts:batched_mm", "experts:grouped_mm"]
    model.set_experts_implementation("batched_mm")
    assert [c.name for c in experts_contestants(experts)] == ["experts:eager", "experts:grouped_mm"]


@pytest.mark.parametrize("mode", ["inference", "train"])
def test_experts_are_contested_applied_and_restored(mode: str) -> None:
    """Each implementation is judged and raced; one that is given the win runs, and restoring leaves no trace."""
    from dataclasses import replace

    model = _tiny_mixtral("eager")
    ids = torch.randint(0, 32, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(ids).logits
    profile = tune_model(
        model,
        {"input_ids": ids},
        mode=mode,
        registry=Registry(),
        settings=SETTINGS,
        candidates=["experts"],
        executor=Quick(),
    )
    contests = [contest for contest in profile.contests if contest.slot.name == "Experts"]
    assert contests
    for contest in contests:
        outcomes = {trial.candidate: trial.outcome for trial in contest.trials}
        assert list(outcomes) == ["original", "experts:batched_mm", "experts:grouped_mm"]
        assert isinstance(outcomes["experts:batched_mm"], Measurement), outcomes
    chosen = Selection(winner="experts:batched_mm", ratio=0.8, low=0.7, high=0.9, rounds=3, reason="given")
    given = replace(profile, contests=tuple(replace(contest, selection=chosen) for contest in contests))
    kernelize_model(model, profile=given, use_fallback=False, registry=Registry())
    assert [b.candidate for b in kernelize_report(model).bound] == ["experts:batched_mm"]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, before)
    assert model.config._experts_implementation == "eager"
    restore_model(model)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
