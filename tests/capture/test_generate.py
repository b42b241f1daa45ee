"""Generation as a step of the whole model: its own, greedy, on a growing cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.capture.trace import trace_of
from tests.catalog.catalog_families import tiny
from twinkle_tune.capture.generate import TOKENS
from twinkle_tune.capture.look import apart
from twinkle_tune.capture.step import make_steps
from twinkle_tune.mode import Mode

IDS = torch.randint(3, 64, (2, 8), generator=torch.Generator().manual_seed(0))


def test_it_is_the_models_own_generation() -> None:
    """Greedy, so many tokens whatever ends a text, and the model is as it was."""
    model: Any = tiny("qwen3")
    before = trace_of(model)
    prefill, generate = make_steps(model, {"input_ids": IDS}, Mode.INFERENCE, "cpu", growing=True)
    assert (prefill.label, generate.label) == ("prefill 2x8", f"generate 2x8+{TOKENS}")
    text: Any = generate.run(model)
    assert torch.equal(text, model.generate(IDS, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0))
    model.generation_config.eos_token_id = int(text[0, 9])
    assert generate.run(model).shape == (2, 8 + TOKENS)  # type: ignore[attr-defined]
    model.generation_config.eos_token_id = None
    assert trace_of(model) == before


def test_it_draws_nothing_whatever_the_model_is_set_to() -> None:
    """Sampling settings of the model's own do not count, nor are they changed."""
    model: Any = tiny("qwen3")
    (_, generate) = make_steps(model, {"input_ids": IDS}, Mode.INFERENCE, "cpu", growing=True)
    model.generation_config.update(do_sample=True, temperature=0.7, top_k=5)
    first: Any = generate.run(model)
    assert torch.equal(first, generate.run(model))  # type: ignore[arg-type]
    assert model.generation_config.do_sample


def test_looks_are_of_the_same_text() -> None:
    """Another model's logits are compared for what the first one said; a tie cannot make all the rest another text."""
    model, other = tiny("qwen3"), tiny("qwen3")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.0 + 1e-6)
    (_, generate) = make_steps(model, {"input_ids": IDS}, Mode.INFERENCE, "cpu", growing=True)
    one = generate.look(model)
    assert one.outputs.numel() == TOKENS * 2 * 64
    assert apart(one, generate.look(model))["outputs"] == 0.0
    assert 0 < apart(one, generate.look(other))["outputs"] < 1e-3


@pytest.mark.parametrize("growing", [False, True])
def test_an_encoder_decoder_generates_on_a_growing_cache(growing: bool) -> None:
    """Its cache of one length says nothing of one that grows: in the place of its decode step stands its generation."""
    model = tiny_t5()
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]}
    labels = [step.label for step in make_steps(model, inputs, Mode.INFERENCE, "cpu", growing=growing)]
    assert labels == ["forward 2x8", f"generate 2x8+{TOKENS}" if growing else "decode 2x3"]


def test_an_encoder_decoder_begins_as_its_generation_does() -> None:
    """With the token that it begins with, whatever its decoder was given as an example."""
    model = tiny_t5()
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :3], "labels": IDS[:, :3]}
    (_, generate) = make_steps(model, inputs, Mode.INFERENCE, "cpu", growing=True)
    said = model.generate(IDS, do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS, pad_token_id=0)
    assert torch.equal(generate.run(model), said)  # type: ignore[arg-type]
    assert said.shape == (2, 1 + TOKENS)
    assert generate.look(model).outputs.numel() == TOKENS * 2 * 64
    assert apart(generate.look(model), generate.look(model))["outputs"] == 0.0


def tiny_t5() -> Any:
    """An encoder-decoder."""
    import transformers

    config = transformers.T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    config.decoder_start_token_id = 0
    return transformers.T5ForConditionalGeneration(config).eval()
