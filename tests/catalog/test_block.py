"""The blocks that a model repeats are slots: what stands in a block's place competes with what stands in its parts."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from transformers import DynamicCache, MixtralConfig, MixtralForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP

from tests.coexistence.tiny import tiny_llama, tokens
from tests.told import Told, told_clock
from tests.tune.toy import QUICK
from tests.zoo.quick import SETTINGS, Quick
from twinkle_tune import kernelize_model, kernelize_report, restore_model, tune_model
from twinkle_tune.capture.capture import capture
from twinkle_tune.capture.step import make_steps
from twinkle_tune.catalog.block import BLOCK, blocks_of, repeats
from twinkle_tune.kernel import Registry, register_layer_kernel
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.kernel.patch import Binding, bind_forward
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Untimed
from twinkle_tune.terms import Terms
from twinkle_tune.tune.in_process import InProcess
from twinkle_tune.tune.task import Task
from twinkle_tune.workload import observe

mlp_forward = LlamaMLP.forward
clock = Told()


def test_decoder_layers_are_blocks() -> None:
    """Of a decoder its layers, of a mixture of experts nothing more; a model without such a list has none."""
    model: Any = tiny_llama()
    assert blocks_of(model) == set(model.model.layers)
    (block,) = [target for target in find_slots(model, Registry()) if target.slot.name == BLOCK]
    assert [path for path, _ in block.instances] == ["model.layers.0", "model.layers.1"]
    config = MixtralConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    experts: Any = MixtralForCausalLM(config)
    assert blocks_of(experts) == set(experts.model.layers)
    assert not blocks_of(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
    assert not blocks_of(nn.Sequential(nn.Linear(2, 2)))
    assert not blocks_of(nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(2, 2)))))
    layers = [nn.TransformerEncoderLayer(8, 2, 8), nn.TransformerEncoderLayer(8, 2, 8)]
    assert blocks_of(nn.Sequential(*layers)) == set(layers)


def test_a_call_with_a_cache_cannot_be_repeated() -> None:
    """An object among the arguments, however deep, is what a call may change; tensors and plain values are not."""
    x = torch.ones(2, 4)
    assert repeats(observe("m:f", (x, None, 3), {"pair": (x, x), "named": {"a": [x, "b"]}}))
    assert not repeats(observe("m:f", (x,), {"cache": DynamicCache()}))
    assert not repeats(observe("m:f", (x, [(DynamicCache(),)]), {}))
    assert not repeats(observe("m:f", (x,), {"named": {"a": DynamicCache()}}))


def _slow_mlp(self: Any, x: torch.Tensor) -> Any:
    clock.us += 400
    return mlp_forward(self, x)


class LessSlowMLP(nn.Module):
    """The MLP in a fourth of the time."""

    def forward(self, x: torch.Tensor) -> Any:
        clock.us += 100
        return mlp_forward(self, x)


class FusedBlock(nn.Module):
    """A decoder layer whose MLP takes no time."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        held: Any = self
        (hidden_states,) = args
        attended, _ = held.self_attn(hidden_states=held.input_layernorm(hidden_states), **kwargs)
        middle = hidden_states + attended
        added: torch.Tensor = middle + mlp_forward(held.mlp, held.post_attention_layernorm(middle))
        return added


@pytest.mark.parametrize("mode", ["train", "inference"])
def test_the_better_total_of_a_block_and_its_parts(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training the block's kernel, which saves more, stands in for the MLP's; with a cache blocks do not compete."""
    monkeypatch.setattr(LlamaMLP, "forward", _slow_mlp)
    monkeypatch.setattr(sys.modules[__name__], "clock", told_clock(monkeypatch))
    registry = Registry()
    register_layer_kernel(BLOCK, layer_impl=FusedBlock, device="cpu", registry=registry)
    register_layer_kernel("GatedMLP", layer_impl=LessSlowMLP, device="cpu", registry=registry)
    model: Any = tiny_llama()
    before = _loss(model)
    profile = tune_model(
        model, {"input_ids": tokens()}, mode=mode, registry=registry, settings=QUICK, candidates=["impl"]
    )
    if mode == "inference":
        assert {won.slot.name for won in profile.winners} == {"GatedMLP"}
        assert BLOCK not in {contest.slot.name for contest in profile.contests}
        return
    (won,) = profile.winners
    assert (won.slot.name, len(won.instances)) == (BLOCK, 2)
    (kept,) = [contest for contest in profile.contests if contest.slot.name == "GatedMLP"]
    assert "it runs inside Block, whose winner saves more" in kept.selection.reason
    kernelize_model(model, profile=profile, registry=registry, use_fallback=False)
    assert [binding.path for binding in kernelize_report(model).bound] == ["model.layers.0", "model.layers.1"]
    torch.testing.assert_close(_loss(model), before)
    restore_model(model)
    assert torch.equal(_loss(model), before)


def test_nobody_to_compete_for_a_block_is_no_contest() -> None:
    """Where only other candidates are asked for, the block is not judged either."""
    profile = tune_model(
        tiny_llama(), {"input_ids": tokens()}, mode="train", registry=Registry(), settings=SETTINGS, executor=Quick(),
        candidates=["torch"],
    )  # fmt: skip
    assert BLOCK not in {contest.slot.name for contest in profile.contests}


def test_a_small_budget_does_not_begin_to_compile_a_block() -> None:
    """Nobody interrupts a compiler: with less than a minute left it is not tried, and the reason says so."""
    model = tiny_llama()
    steps = make_steps(model, {"input_ids": tokens()}, Mode.TRAIN, "cpu")
    seen = capture(model, steps, find_slots(model, Registry()), "cpu")
    (observation,) = [each for each in seen.observations if each.slot.name == BLOCK]
    entrants = contestants(observation.occurrence, "cpu", Mode.TRAIN, Registry())
    terms = Terms(mode=Mode.TRAIN, device="cpu", settings=QUICK)
    task = Task(observation=observation, candidates=entrants, terms=terms, deadline_s=50)
    outcome = InProcess().hold(task, lambda event: None).trial("compile").outcome
    assert isinstance(outcome, Untimed)
    assert (outcome.cause, outcome.right) == ("budget", False)
    assert outcome.reason == "not tried: the time budget leaves less than the 60 s that compiling a block may take"


def test_all_blocks_share_what_is_compiled() -> None:
    """A decoder's layers are compiled once for all of them, forward and backward: there is no limit to meet."""
    from twinkle_tune.source.compiled import _apart

    model: Any = tiny_llama().train()
    model.model.layers = nn.ModuleList(
        [*model.model.layers, *(LlamaDecoderLayer(model.config, n) for n in range(2, 12))]
    )
    torch.compiler.reset()
    counters.clear()
    compiled = torch.compile(_apart(LlamaDecoderLayer.forward), backend="eager")
    for layer in model.model.layers:
        bind_forward(layer, compiled, Binding(slot=BLOCK, path="", candidate="compile", rows="all"))
    for _ in range(2):
        model(input_ids=tokens(), labels=tokens(), use_cache=False).loss.backward()
    assert counters["stats"]["unique_graphs"] == 1


def _loss(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=tokens(), labels=tokens(), use_cache=False).loss
    return found.detach()
