"""Steps that were made up: a model that does not take one is tuned on the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.capture.tiny_models import tiny, token_ids
from twinkle_tune.capture.capture import capture
from twinkle_tune.capture.step import Step, make_steps
from twinkle_tune.errors import CaptureError
from twinkle_tune.mode import Mode

FAMILIES = ("llama", "gemma3", "phi")


def steps_of(model: nn.Module, inputs: object, mode: Mode = Mode.INFERENCE) -> tuple[Step, ...]:
    """The steps that the model was run in."""
    return capture(model, make_steps(model, inputs, mode, "cpu"), (), "cpu").steps


def refusing(model: nn.Module, asks: str) -> nn.Module:
    """The model, which raises where a call has an argument of that name that is not None or False."""

    def refuse(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not any(kwargs.get(asks) is nothing for nothing in (None, False)):
            raise ValueError(f"no {asks} here")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decode_step_that_fails_is_left_out(family: str) -> None:
    """A model that takes no cache from outside is run as a prefill alone, and the reason is kept."""
    model = refusing(tiny(family), "past_key_values")
    found = capture(model, make_steps(model, token_ids(2, 6), Mode.INFERENCE, "cpu"), (), "cpu")
    assert [step.label for step in found.steps] == ["prefill 2x6"]
    assert found.left_out == (("decode 2x6", "ValueError: no past_key_values here"),)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefill_that_fails_is_run_as_given(family: str) -> None:
    """A model that takes no use_cache is run on the inputs as they are."""
    assert [step.label for step in steps_of(refusing(tiny(family), "use_cache"), token_ids(2, 6))] == ["forward 2x6"]


def test_made_up_labels_that_fail_are_left_out() -> None:
    """A model that takes no labels is trained from random gradients of its outputs."""
    model = refusing(tiny("llama").train(), "labels")
    assert [step.is_made_up for step in steps_of(model, token_ids(2, 6), Mode.TRAIN)] == [False]


def test_the_inputs_of_the_user_must_be_taken() -> None:
    """A model that fails on what it is given ends the run with its own error."""
    model = refusing(tiny("llama"), "input_ids")
    with pytest.raises(CaptureError, match="no input_ids here"):
        steps_of(model, {"input_ids": token_ids(2, 6)})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decode_step_knows_its_positions(family: str) -> None:
    """A row with padding on its left goes on after as many positions as it has tokens."""
    seen: list[torch.Tensor] = []
    model = tiny(family)
    model.register_forward_pre_hook(lambda m, a, kw: seen.append(kw.get("position_ids")), with_kwargs=True)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, :2] = 0
    _, decode = make_steps(model, {"input_ids": token_ids(2, 6), "attention_mask": mask}, Mode.INFERENCE, "cpu")
    decode.run(model)
    assert torch.equal(seen[-1], torch.tensor([[6], [4]]))
