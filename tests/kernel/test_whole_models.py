"""What won for a whole model, its attention or its head: when the original runs, and what does not make it stale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from tests.kernel.toys import profile
from tests.report import fabricate
from twinkle_tune import kernelize_model, kernelize_report, restore_model
from twinkle_tune.catalog import head
from twinkle_tune.environment import current_environment
from twinkle_tune.kernel import Registry
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Selection, Trial
from twinkle_tune.profile.schema import Profile
from twinkle_tune.slot import HEAD
from twinkle_tune.workload import observe

SMALL: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**SMALL)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=2, n_positions=64)),
}
WITH_HEAD = ("llama", "gpt2")
IDS = torch.arange(3, 15).view(2, 6)


def _profile(model: nn.Module, slot: str, winner: str, mode: Mode, **given: Any) -> Profile:
    wanted = {"head": slot == HEAD, "attention": slot != HEAD}
    (target,) = [t for t in find_slots(model, Registry(), **wanted) if t.slot.name == slot]
    with torch.set_grad_enabled(mode.trains):
        workload = observe(target.slot.target, (), {"input_ids": IDS, **given}, model)
    found = contestants(target, "cpu", mode, Registry())
    trials = [
        Trial(
            candidate=c.name,
            source=c.source.kind,
            digest=c.source.digest(target.slot, type(model).forward),
            outcome=fabricate.measurement(1.0, 1.0, 1.0),
        )
        for c in found
    ]
    made = fabricate.contest(*trials, selection=Selection(winner=winner, ratio=0.8, low=0.7, high=0.9, reason="faster"))
    contest = replace(made, slot=target.slot, workload=workload, instances=("",))
    return replace(profile([contest], environment=current_environment("cpu")), mode=mode)


def _with_head(name: str) -> tuple[Any, Profile]:
    torch.manual_seed(0)
    model = MODELS[name]().train()
    return model, _profile(model, HEAD, "torch.chunked", Mode.TRAIN, labels=IDS, use_cache=False)


def _is_late(model: Any, **more: Any) -> bool:
    """Whether a training step makes no logits: the winner ran."""
    return "_later" in vars(model(**{"input_ids": IDS, "labels": IDS, "use_cache": False, **more}))


@pytest.mark.parametrize("name", WITH_HEAD)
def test_another_loss_is_the_originals(name: str) -> None:
    """Keywords of the loss, a number of items, a loss function of one's own: the original's, and the last is told."""
    model, made = _with_head(name)
    kernelize_model(model, profile=made, registry=Registry(), use_fallback=False)
    assert _is_late(model)
    assert not _is_late(model, ignore_index=7)
    assert not _is_late(model, num_items_in_batch=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not _is_late(model)
    assert not kernelize_report(model).kept
    calls = []

    def own(logits: torch.Tensor, labels: torch.Tensor, **rest: Any) -> torch.Tensor:
        calls.append(1)
        return logits.float().square().mean()

    model.loss_function = own
    assert not _is_late(model)
    assert calls == [1]
    (kept,) = kernelize_report(model).kept
    assert "its loss function is not the one that was measured" in kept.reason


class _Adapted(nn.Linear):
    """As an adapter that took the head's place."""


@pytest.mark.parametrize("name", WITH_HEAD)
def test_an_adapter_on_the_head(name: str) -> None:
    """On the head before binding: kept, with a warning; after it: the original runs, and the report says so."""
    model, made = _with_head(name)
    plain = model.lm_head
    adapted = _Adapted(8, 32, bias=False)
    model.lm_head = adapted
    with pytest.warns(UserWarning, match="its lm_head is a _Adapted or was replaced"):
        kernelize_model(model, profile=made, registry=Registry())
    assert not kernelize_report(model).bound
    assert "lm_head" in kernelize_report(model).kept[0].reason
    model.lm_head = plain
    kernelize_model(model, profile=made, registry=Registry(), use_fallback=False)
    assert _is_late(model)
    model.lm_head = adapted
    assert not _is_late(model)
    assert not kernelize_report(model).bound


@pytest.mark.parametrize("name", WITH_HEAD)
def test_saved_and_loaded_the_winner_still_fits(name: str, tmp_path: Path) -> None:
    """save_pretrained, ids of tokens and labels change nothing; a profile of random weights fits what was loaded."""
    model, made = _with_head(name)
    model.save_pretrained(tmp_path)
    model.config.pad_token_id, model.config.id2label = 5, {0: "a", 1: "b", 2: "c"}
    loaded = type(model).from_pretrained(tmp_path)
    for each in (model, loaded):
        kernelize_model(each, profile=made, registry=Registry(), use_fallback=False)
        assert kernelize_report(each).bound


def test_a_changed_width_does_not_fit() -> None:
    """What changes the computation still makes a profile stale."""
    _, made = _with_head("llama")
    other = LlamaForCausalLM(LlamaConfig(**SMALL | {"vocab_size": 64}))
    with pytest.warns(UserWarning, match="its settings changed .vocab_size: 32 then, 64 now"):
        kernelize_model(other, profile=made, registry=Registry())
    assert not kernelize_report(other).bound


@pytest.mark.parametrize("name", MODELS)
def test_left_padding_generates_as_the_plain_model(name: str) -> None:
    """generate() with a padded batch reads the signature, makes the positions, and gives the plain model's tokens."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(IDS, **options)
    made = _profile(model, "attn_implementation", "attn:eager", Mode.INFERENCE, attention_mask=torch.ones_like(IDS))
    kernelize_model(model, profile=made, registry=Registry(), use_fallback=False)
    assert kernelize_report(model).bound
    assert torch.equal(model.generate(IDS, **options), expected)
    restore_model(model)


def test_what_else_a_call_of_the_attention_asks_for() -> None:
    """Attentions, positions of packed sequences, padding where there was none, gradients: the original's."""
    torch.manual_seed(0)
    model: Any = MODELS["llama"]().eval()
    ran: list[str] = []
    model.model.layers[0].self_attn.register_forward_pre_hook(lambda m, a: ran.append(m.config._attn_implementation))
    mask = torch.ones_like(IDS)
    made = _profile(model, "attn_implementation", "attn:eager", Mode.INFERENCE, attention_mask=mask)
    kernelize_model(model, profile=made, registry=Registry(), use_fallback=False)
    padded, counted = mask.clone(), torch.arange(6).expand(2, 6)
    padded[0, :2] = 0
    asked: list[tuple[dict[str, Any], str]] = [
        ({}, "eager"),
        ({"position_ids": counted, "use_cache": True, "return_dict": True}, "eager"),
        ({"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]]).expand(2, 6)}, "sdpa"),
        ({"attention_mask": padded}, "sdpa"),
        ({"output_hidden_states": True}, "sdpa"),
        ({"labels": IDS}, "sdpa"),
    ]
    with torch.no_grad():
        for more, expected in asked:
            model(**{"input_ids": IDS, "attention_mask": mask, **more})
            assert (ran.pop(), more) == (expected, more)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(input_ids=IDS, attention_mask=mask)
        assert ran.pop() == "sdpa"
    model(input_ids=IDS, attention_mask=mask)
    assert ran.pop() == "sdpa"


def test_a_loss_of_ones_own_is_never_probed() -> None:
    """Whether a loss is known is asked without running it, unless it is one of transformers' own."""
    calls: list[int] = []

    def own(**given: Any) -> torch.Tensor:
        calls.append(1)
        return torch.zeros(())

    assert not head._is_known_loss(own)
    assert not calls
