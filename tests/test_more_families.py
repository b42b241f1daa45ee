"""Encoders, encoder-decoders, speech, vision and older decoders: from profile to bound and back, in one process."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.catalog.encoder_families import ENCODER_DECODERS, FAMILIES, inputs_of, tiny
from twinkle_tune import kernelize_model, kernelize_report, restore_model, tune_model
from twinkle_tune.call.arguments import Call
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.mode import Mode
from twinkle_tune.parity.check import check
from twinkle_tune.parity.verdict import Pass
from twinkle_tune.profile.schema import Profile
from twinkle_tune.testing import with_winner

# What is offered, that it is right and that it draws alike has fast tests in tests/catalog.
pytestmark = pytest.mark.slow
CASES = [
    (family, mode)
    for family in FAMILIES
    for mode in (Mode.INFERENCE, Mode.TRAIN)
    # Its blocks alone have candidates, which cannot compete where they are handed a cache.
    if (family, mode) != ("opt", Mode.INFERENCE)
]
GENERATE = ("gpt2", "opt", *ENCODER_DECODERS)


def profile_of(model: nn.Module, inputs: dict[str, Tensor], mode: Mode) -> Profile:
    """Contests with torch's own candidates alone; each is won by the best of them that is right, faster or not."""
    settings = RaceSettings(max_rounds=9)
    return with_winner(tune_model(model, inputs, mode=mode, candidates=["torch"], settings=settings))


def run(model: nn.Module, **inputs: Tensor) -> Tensor:
    """The loss, where there are labels, else the logits or last hidden states."""
    made = model(**inputs)
    return made.loss if "labels" in inputs else made[0]  # type: ignore[no-any-return]


def outputs_and_gradients(model: nn.Module, inputs: dict[str, Tensor], *, trains: bool) -> list[Tensor]:
    """What :func:`run` gives from one seed and, where it trains, the gradient of every parameter that gets one."""
    torch.manual_seed(7)
    with torch.set_grad_enabled(trains):
        out = run(model, **inputs)
    if not trains:
        return [out]
    leaves = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(out.square().mean(), leaves, allow_unused=True)
    return [out.detach(), *(gradient for gradient in gradients if gradient is not None)]


def generated(model: Any, family: str) -> Tensor:
    """Six more tokens of a left-padded batch, greedily."""
    inputs = inputs_of(family, trains=False)
    inputs.pop("decoder_input_ids", None)
    if "input_ids" in inputs:
        mask = torch.ones_like(inputs["input_ids"])
        mask[0, :3] = 0
        inputs |= {"attention_mask": mask}
    made: Tensor = model.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0)
    return made


@pytest.mark.parametrize(("family", "mode"), CASES)
def test_winners_are_bound_right_and_undone(family: str, mode: Mode) -> None:
    """Torch's own candidates are bound; the model then passes the parity rule and keeps signatures and generated
    tokens, and is bit for bit the old one after restoring."""
    model, inputs = tiny(family).train(mode.trains), inputs_of(family, trains=mode.trains)
    before = outputs_and_gradients(model, inputs, trains=mode.trains)
    tokens = generated(model.eval(), family) if family in GENERATE else None
    profile = profile_of(model.train(mode.trains), inputs, mode)
    signatures = {path: inspect.signature(module.forward) for path, module in model.named_modules()}

    def bound(module: nn.Module, **inputs: Tensor) -> Tensor:
        kernelize_model(module, profile=profile, use_fallback=False)
        try:
            return run(module, **inputs)
        finally:
            restore_model(module)

    verdict = check(run, bound, [Call(args=(), kwargs=inputs)], module=model, trains=mode.trains)
    assert isinstance(verdict, Pass), verdict
    kernelize_model(model, profile=profile, use_fallback=False)
    winners = {binding.candidate for binding in kernelize_report(model).bound}
    assert winners
    assert all(winner.startswith("torch.") for winner in winners), winners
    assert {path: inspect.signature(module.forward) for path, module in model.named_modules()} == signatures
    if tokens is not None and not mode.trains:
        assert torch.equal(generated(model.eval(), family), tokens)
    restore_model(model)
    after = outputs_and_gradients(model.train(mode.trains), inputs, trains=mode.trains)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
