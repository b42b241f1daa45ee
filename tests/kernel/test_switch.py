"""Binding the attention that won: which calls get it, and what is left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache, LlamaForCausalLM

from tests.coexistence.tiny import logits, tiny_llama, tokens
from tests.kernel.toys import profile
from tests.report import fabricate
from twinkle_tune.catalog.attention import attention_contestants, attention_place
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import RegistrationError
from twinkle_tune.kernel import Registry, kernelize_model, kernelize_report, restore_model
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Selection, Trial
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.report.derive import shapes
from twinkle_tune.slot import ATTENTION, ORIGINAL
from twinkle_tune.workload import observe

EAGER, MATH = "attn:eager", "attn:sdpa.math"


def _contest(model: LlamaForCausalLM, batch: int, length: int, winner: str, **given: Any) -> Contest:
    (target,) = [t for t in find_slots(model, Registry(), attention=True) if t.slot.name == ATTENTION]
    ids = torch.zeros(batch, length, dtype=torch.long)
    with torch.no_grad():
        workload = observe(target.slot.target, (), {"input_ids": ids, **given}, model)
    found = contestants(target, "cpu", Mode.INFERENCE, Registry())
    original = type(model).forward
    trials = [
        Trial(
            candidate=c.name,
            source=c.source.kind,
            digest=c.source.digest(target.slot, original),
            outcome=fabricate.measurement(1.0, 1.0, 1.0),
        )
        for c in found
    ]
    made = fabricate.contest(*trials, selection=Selection(winner=winner, ratio=0.8, low=0.7, high=0.9, reason="faster"))
    return replace(made, slot=target.slot, workload=workload, instances=("",))


def _profile(*won: tuple[int, int, str], **given: Any) -> Profile:
    model = tiny_llama()
    return profile([_contest(model, *each, **given) for each in won], environment=current_environment("cpu"))


def _bound(*won: tuple[int, int, str], **given: Any) -> tuple[LlamaForCausalLM, list[str]]:
    """A model to which a profile is bound, and a list in which its attention layers write what they run."""
    model, ran = tiny_llama(), list[str]()
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(lambda m, args: ran.append(m.config._attn_implementation))
    kernelize_model(model, profile=_profile(*won, **given), registry=Registry(), use_fallback=False)
    return model, ran


def _runs(model: nn.Module, ran: list[str], batch: int, length: int, **given: Any) -> str:
    ran.clear()
    with torch.no_grad():
        model(input_ids=torch.zeros(batch, length, dtype=torch.long), **given)
    (only,) = set(ran)
    return only


def test_each_call_gets_what_won_for_it() -> None:
    """By batch and length; between two lengths where both agree; anything else is the original's."""
    model, ran = _bound((1, 4, EAGER), (1, 8, EAGER), (1, 16, ORIGINAL), (2, 8, ORIGINAL))
    sizes = ((1, 3), (1, 4), (1, 6), (1, 8), (1, 12), (1, 16), (2, 8), (4, 8))
    got = {size: _runs(model, ran, *size) for size in sizes}
    assert [size for size, value in got.items() if value == "eager"] == [(1, 4), (1, 6), (1, 8)]
    (bound,) = kernelize_report(model).bound
    assert (bound.slot, bound.path, bound.candidate, bound.rows) == (ATTENTION, "", EAGER, "1x4 to 1x8: attn:eager")


def test_masks_and_caches() -> None:
    """A mask where none was measured, or a cache that is not empty, is the original's; an empty cache is none."""
    model, ran = _bound((1, 6, EAGER))
    assert _runs(model, ran, 1, 6, past_key_values=DynamicCache(config=model.config)) == "eager"
    assert _runs(model, ran, 1, 6, attention_mask=torch.ones(1, 6, dtype=torch.long)) == "sdpa"
    cache = DynamicCache(config=model.config)
    _runs(model, ran, 1, 5, past_key_values=cache)
    assert _runs(model, ran, 1, 6, past_key_values=cache) == "sdpa"
    masked, ran = _bound((1, 6, EAGER), attention_mask=torch.ones(1, 6, dtype=torch.long))
    assert _runs(masked, ran, 1, 6, attention_mask=torch.ones(1, 6, dtype=torch.long)) == "eager"
    assert _runs(masked, ran, 1, 6) == "sdpa"


@pytest.mark.parametrize("winner", [EAGER, MATH])
def test_the_switch_is_put_back(winner: str) -> None:
    """After each call, after an error and after restoring, the configuration says what it said before."""
    model, _ = _bound((2, 6, winner))
    torch.testing.assert_close(logits(model), logits(tiny_llama()))
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(IndexError):
        model(input_ids=tokens() + 1000)
    assert model.config._attn_implementation == "sdpa"
    restore_model(model)
    assert torch.equal(logits(model), logits(tiny_llama()))
    assert "forward" not in model.__dict__


def test_a_switch_that_was_set_otherwise_is_left_alone() -> None:
    """A model whose attention was set after it was profiled keeps that, and it is said that the profile is stale."""
    model = tiny_llama()
    model.set_attn_implementation("eager")
    with pytest.warns(UserWarning, match="its settings changed .attn_implementation: sdpa then, eager now"):
        kernelize_model(model, profile=_profile((2, 6, MATH)), registry=Registry())
    assert not kernelize_report(model).bound
    bound, ran = _bound((2, 6, EAGER))
    bound.set_attn_implementation("flex_attention")
    ran.clear()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        bound(input_ids=tokens())
    assert set(ran) == {"flex_attention"}


def test_deeper_models() -> None:
    """What won on a shortened model holds for the whole one."""
    deep = LlamaForCausalLM(type(tiny_llama().config)(**(tiny_llama().config.to_dict() | {"num_hidden_layers": 3})))
    kernelize_model(deep, profile=_profile((2, 6, EAGER)), registry=Registry(), use_fallback=False)
    assert kernelize_report(deep).bound


def test_gradient_checkpointing() -> None:
    """Layers that the backward runs once more find the switch as it was the first time: the original's."""
    model, ran = _bound((2, 6, EAGER))
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    assert set(ran) == {"sdpa"}
    with torch.no_grad():
        model(input_ids=tokens())
    assert "eager" in ran


def test_who_competes() -> None:
    """What the model's switch takes, but for what it is set to, and sdpa's backends of the device."""
    model = tiny_llama()
    found = attention_place(nn.Sequential(nn.Linear(1, 1), model))
    assert found is not None
    assert found == ("1", model)
    names = [candidate.name for candidate in attention_contestants(model, "cpu")]
    assert names == ["attn:eager", "attn:flex_attention", "attn:sdpa.flash", "attn:sdpa.math"]


def test_models_without_a_switch_are_refused() -> None:
    """Asked for the attention of another model, it is said what was expected; not asked for, it is no slot."""
    assert not [t for t in find_slots(tiny_llama(), Registry()) if t.slot.name == ATTENTION]
    with pytest.raises(RegistrationError, match="Linear has no attention implementation that can be switched"):
        find_slots(nn.Linear(1, 1), Registry(), attention=True)


@pytest.mark.parametrize(
    "won",
    [
        ((1, 8, EAGER), (4, 8, EAGER)),
        ((1, 4, EAGER), (1, 16, EAGER), (2, 8, MATH)),
        ((1, 8, EAGER), (1, 16, ORIGINAL), (4, 16, MATH)),
    ],
)
def test_the_report_says_what_is_bound(won: tuple[tuple[int, int, str], ...]) -> None:
    """Of an attention that won at several batch sizes, the report names the same sizes as the binding does."""
    model, _ = _bound(*won)
    (bound,) = kernelize_report(model).bound
    (shown,) = shapes(_profile(*won))
    assert shown.text == f"{bound.rows}; else the original"
    assert {rule.winner.candidate for rule in shown.rules} == {name for _, _, name in won} - {ORIGINAL}
