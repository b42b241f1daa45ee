"""Tiny models with every right rival bound, for tests that do something to them afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tests.capture.tiny_models import inputs_of, tiny
from tests.zoo.quick import SETTINGS, Quick, quick_profile
from twinkle_tune import kernelize_model, kernelize_report, tune_model
from twinkle_tune.catalog.add_norm import ADD_NORM
from twinkle_tune.catalog.qk_rope import QK_ROPE
from twinkle_tune.catalog.written_attention import WRITTEN
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Profile
from twinkle_tune.testing import with_winner

FAMILIES = ("llama", "gemma3", "phi")


@cache
def winners(family: str, mode: Mode, *, head: bool = False) -> Profile:
    """A profile of a family's tiny model in which every contest with a right rival was won by one."""
    model, inputs = tiny(family), inputs_of(mode)
    if not head:
        return with_winner(quick_profile(model, inputs, mode))
    profile = tune_model(
        model, inputs, mode=mode, candidates=["torch.chunked"], head=True, settings=SETTINGS, executor=Quick()
    )
    return with_winner(profile)


def plain_and_bound(family: str, mode: Mode, *, head: bool = False) -> tuple[Any, Any]:
    """The same model twice: as it is, and with the winners. Fails where nothing was bound, or something was not."""
    profile = winners(family, mode, head=head)
    plain, bound = (tiny(family).train(mode.trains) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernelize_model(bound, profile=profile)
    assert kernelize_report(bound).bound
    return plain, bound


def bound_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that something is bound to, by path; not those that hold a piece: they take more than a tensor."""
    pieces = (ADD_NORM, QK_ROPE, WRITTEN)
    paths = {binding.path for binding in kernelize_report(model).bound if binding.slot not in pieces}
    yield from ((path, module) for path, module in model.named_modules() if path and path in paths)


def logits(model: nn.Module, **more: Any) -> Tensor:
    """What the model gives for the tokens of the tests, without gradients."""
    with torch.no_grad():
        found: Tensor = model(**inputs_of(Mode.INFERENCE), **more).logits
    return found


def gradients(model: nn.Module, **inputs: Any) -> dict[str, Tensor]:
    """Loss and gradients of a training step, by the parameter's name; those that get none are left out."""
    model.zero_grad()
    loss = model(**(inputs_of(Mode.TRAIN) | inputs), use_cache=False).loss
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """The same names, dtypes and shapes, and values that are apart by roundings of float32; NaN equals NaN."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        ours = other[name]
        assert tensor.dtype == ours.dtype, name
        near = torch.allclose(tensor, ours, rtol=1e-3, atol=1e-5, equal_nan=True)
        assert near, f"{name}: {(tensor - ours).abs().max():.3g} apart, of at most {tensor.abs().max():.3g}"
