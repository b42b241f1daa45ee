"""The attention of a tiny Llama, contested, applied and restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama import modeling_llama

from tests.coexistence.tiny import tiny_llama
from tests.tune.toy import QUICK, spin
from twinkle_tune import kernelize_model, kernelize_report, load_profile, restore_model, tune_model
from twinkle_tune.kernel import Registry
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.slot import ATTENTION

pytestmark = pytest.mark.slow
LENGTHS = (8, 24)


def _ids(length: int) -> torch.Tensor:
    return torch.randint(0, 32, (1, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("mode", ["inference", "train"])
def test_attention_is_contested_applied_and_restored(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a slow eager attention, sdpa and flex, at both lengths another wins, is applied, and is taken out again."""
    eager = modeling_llama.eager_attention_forward

    slow_calls: list[int] = []

    def slow(*args: Any, **kwargs: Any) -> Any:
        slow_calls.append(1)
        spin(10_000)
        return eager(*args, **kwargs)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", slow)
    model = tiny_llama()
    model.set_attn_implementation("eager")
    inputs = [{"input_ids": _ids(length)} for length in LENGTHS]
    before = [_run(model, each["input_ids"], mode) for each in inputs]
    profile = tune_model(
        model, inputs, mode=mode, registry=Registry(), settings=QUICK, candidates=["attn"], attention=True
    )
    contests = [contest for contest in profile.contests if contest.slot.name == ATTENTION]
    assert len(contests) == len(LENGTHS)
    for contest in contests:
        outcomes = {trial.candidate: trial.outcome for trial in contest.trials}
        assert list(outcomes) == ["original", "attn:sdpa", "attn:flex_attention", "attn:sdpa.flash", "attn:sdpa.math"]
        assert isinstance(outcomes["attn:sdpa"], Measurement)
        flex = outcomes["attn:flex_attention"]
        if mode == "train":
            assert isinstance(flex, Rejection)
            assert "FlexAttention does not support backward on CPU" in flex.reason
        else:
            assert isinstance(flex, Measurement)
        assert contest.selection.winner.startswith("attn:sdpa")
    kernelize_model(model, profile=load_profile(profile.save(tmp_path / "p.json")), use_fallback=False)
    assert [b.slot for b in kernelize_report(model).bound] == [ATTENTION]
    slow_calls.clear()
    for each, result in zip(inputs, before, strict=True):
        torch.testing.assert_close(_run(model, each["input_ids"], mode), result)
    assert not slow_calls
    restore_model(model)
    assert model.config._attn_implementation == "eager"
    assert all(
        torch.equal(_run(model, each["input_ids"], mode), result) for each, result in zip(inputs, before, strict=True)
    )


def _run(model: Any, ids: torch.Tensor, mode: str) -> torch.Tensor:
    """Logits, or the gradient of one weight."""
    model.zero_grad()
    found: torch.Tensor
    if mode == "train":
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        found = model.model.layers[0].self_attn.q_proj.weight.grad.clone()
        return found
    with torch.no_grad():
        found = model(input_ids=ids).logits
    return found
