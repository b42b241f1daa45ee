"""Decode steps of encoder-decoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.catalog.encoder_families import ENCODER_DECODERS, inputs_of, tiny
from tests.zoo.build import build
from tests.zoo.names import kind_of
from twinkle_tune.capture.capture import capture
from twinkle_tune.capture.step import make_steps
from twinkle_tune.kernel.find import find_slots
from twinkle_tune.mode import Mode


def _counted(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_decode_continues_the_decoder(family: str) -> None:
    """A decode step computes what the whole model computes for one more decoder token, the same bits at each run."""
    model, inputs = tiny(family), inputs_of(family, trains=False)
    forward, decode = make_steps(model, inputs, Mode.INFERENCE, "cpu")
    assert (forward.label.split()[0], decode.label) == ("forward", "decode 2x7")
    ids = inputs["decoder_input_ids"]
    with torch.no_grad():
        whole = model(**{**inputs, "decoder_input_ids": torch.cat([ids, ids[:, -1:]], dim=1)}).logits
    runs: list[Any] = [decode.run(model) for _ in range(3)]
    assert runs[0].logits.shape[1] == 1
    torch.testing.assert_close(runs[0].logits[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(run.logits, runs[0].logits) for run in runs)
    assert [run.past_key_values.get_seq_length() for run in runs] == [8, 8, 8]


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_decode_runs_the_encoder_once(family: str) -> None:
    """However often a decode step runs, the encoder ran once, for its states and the cache."""
    model = tiny(family)
    _, decode = make_steps(model, inputs_of(family, trains=False), Mode.INFERENCE, "cpu")
    encoder: Any = model
    calls = _counted(encoder.get_encoder())
    for _ in range(4):
        decode.run(model)
    assert len(calls) == 1


def test_the_decoder_gets_all_that_the_encoder_said() -> None:
    """A decoder that reads more of its encoder's output than the states (Canary: a mask) decodes as the whole does."""
    built = build(kind_of("canary"))
    model: Any = built.model
    decode = make_steps(model, built.inputs, Mode.INFERENCE, "cpu")[1]
    ids = built.inputs["decoder_input_ids"]
    with torch.no_grad():
        whole = model(**{**built.inputs, "decoder_input_ids": torch.cat([ids, ids[:, -1:]], dim=1)}).logits
    decoded: Any = decode.run(model)
    torch.testing.assert_close(decoded.logits[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)
    assert not model.get_encoder()._forward_hooks


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_masks_of_padded_rows_are_kept_and_extended(family: str) -> None:
    """The encoder's mask is read again at a decode step, the decoder's is one longer: as for the whole sequence."""
    model, inputs = tiny(family), inputs_of(family, trains=False)
    ids, mask = inputs["decoder_input_ids"], torch.ones(2, 12, dtype=torch.long)
    mask[0, 8:] = 0
    decoder_mask = torch.ones(2, 7, dtype=torch.long)
    decoder_mask[1, :2] = 0
    inputs |= {"attention_mask": mask, "decoder_attention_mask": decoder_mask}
    decoded: Any = make_steps(model, inputs, Mode.INFERENCE, "cpu")[1].run(model)
    longer = {
        "decoder_input_ids": torch.cat([ids, ids[:, -1:]], dim=1),
        "decoder_attention_mask": torch.cat([decoder_mask, torch.ones(2, 1, dtype=torch.long)], dim=1),
    }
    with torch.no_grad():
        whole = model(**{**inputs, **longer}).logits
    torch.testing.assert_close(decoded.logits[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_labels_alone_give_a_decode_step_too(family: str) -> None:
    """Where the inputs have labels and no decoder tokens, the decoder's are what the model makes of the labels."""
    model = tiny(family)
    steps = make_steps(model, inputs_of(family, trains=True), Mode.INFERENCE, "cpu")
    assert [step.label.split()[0] for step in steps] == ["forward", "decode"]
    decoded: Any = steps[1].run(model)
    assert decoded.logits.shape[:2] == (2, 1)
    assert decoded.loss is None


def test_training_has_no_decode_step() -> None:
    """Training is teacher forcing alone."""
    steps = make_steps(tiny("bart").train(), inputs_of("bart", trains=True), Mode.TRAIN, "cpu")
    assert [step.label.split()[0] for step in steps] == ["train"]


class Stubborn(nn.Module):
    """An encoder-decoder by its form that takes no states from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny("bart")
        self.config: Any = self.inner.config

    def generate(self) -> None:
        """Never called."""

    def forward(
        self, input_ids: Any = None, decoder_input_ids: Any = None, encoder_outputs: Any = None,
        past_key_values: Any = None, use_cache: Any = None, attention_mask: Any = None,
    ) -> Any:  # fmt: skip
        if encoder_outputs is not None:
            raise ValueError("states: got some, expected input_ids")
        return self.inner(input_ids=input_ids, decoder_input_ids=decoder_input_ids, use_cache=use_cache)


def test_a_decode_step_that_is_not_taken_is_left_out() -> None:
    """A model that refuses the states still has its forward captured, and what was left out is told."""
    model = Stubborn()
    steps = make_steps(model, inputs_of("bart", trains=False), Mode.INFERENCE, "cpu")
    seen = capture(model, steps, find_slots(model), "cpu")
    assert [label for label, _ in seen.step_us] == ["forward 2x12"]
    assert "states: got some" in dict(seen.left_out)["decode 2x7"]
