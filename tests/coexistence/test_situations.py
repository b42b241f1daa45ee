"""Situations from public reports about replaced, fused or compiled layers: inference (docs/situations.md)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.capture.tiny_models import inputs_of, tiny
from tests.coexistence.bound import FAMILIES, assert_near, bound_layers, gradients, logits, plain_and_bound, winners
from tests.today import by_day
from tests.zoo.quick import quick_profile
from twinkle_tune import kernelize_model, restore_model
from twinkle_tune.mode import Mode
from twinkle_tune.testing import with_winner

INFERENCE = Mode.INFERENCE
TODAY = by_day(FAMILIES, 3)
"""A family a day: the others are left to ``make slow``."""


@pytest.mark.parametrize("family", TODAY)
def test_exchanged_weights(family: str) -> None:
    """Weights that take the place of others after binding are those that the kernels compute with."""
    plain, bound = plain_and_bound(family, INFERENCE)
    before = logits(bound)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in plain.state_dict().items()
    }
    plain.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    bound.load_state_dict(state, assign=True)
    assert_near({"logits": logits(plain)}, {"logits": logits(bound)})
    assert not torch.allclose(before, logits(bound), atol=1e-3)


@pytest.mark.parametrize("family", TODAY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_cast_after_binding(family: str, dtype: torch.dtype) -> None:
    """A model that is cast after binding computes what the plain one does, cast, in its dtype."""
    plain, bound = (model.to(dtype) for model in plain_and_bound(family, INFERENCE))
    exact = logits(tiny(family).double())
    ours, theirs = ((logits(model).double() - exact).abs().max() for model in (bound, plain))
    assert logits(bound).dtype == dtype
    assert ours <= 2 * theirs + 1e-6


@pytest.mark.parametrize("family", TODAY)
def test_no_rows(family: str) -> None:
    """A bound layer that gets no rows at all returns what its class does: nothing, in the right form."""
    _, bound = plain_and_bound(family, INFERENCE)
    found = 0
    for path, module in bound_layers(bound):
        width = _width(module)
        for shape in ((0, width), (2, 0, width)):
            with torch.no_grad():
                wanted, made = type(module).forward(module, torch.zeros(shape)), module(torch.zeros(shape))
            assert (made.shape, made.dtype) == (wanted.shape, wanted.dtype), path
            found += 1
    assert found


@pytest.mark.parametrize("family", TODAY)
def test_strided_rows(family: str) -> None:
    """A bound layer reads its input by its strides, the last one's included."""
    _, bound = plain_and_bound(family, INFERENCE)
    for path, module in bound_layers(bound):
        width = _width(module)
        wide = torch.randn(3, 2 * width, 5, generator=torch.Generator().manual_seed(0))
        for x in (wide[:, ::2, 0], wide[:, :width].transpose(1, 2), wide[:1, :width, 0].expand(4, width)):
            with torch.no_grad():
                assert_near({path: type(module).forward(module, x)}, {path: module(x)})


@pytest.mark.parametrize("family", TODAY)
def test_printing(family: str) -> None:
    """A bound model prints as before, has the attributes that it had, and saves under the same names."""
    plain, bound = plain_and_bound(family, INFERENCE)
    assert repr(bound) == repr(plain)
    assert list(bound.state_dict()) == list(plain.state_dict())
    for (path, ours), (_, theirs) in zip(bound.named_modules(), plain.named_modules(), strict=True):
        assert {n for n in dir(theirs) if not n.startswith("_")} <= set(dir(ours)), path
        assert type(ours) is type(theirs)


@pytest.mark.parametrize("family", TODAY)
def test_profiled_in_inference_mode(family: str) -> None:
    """A model that was profiled and bound under torch.inference_mode can be trained afterwards."""
    plain, bound = tiny(family), tiny(family)
    with torch.inference_mode():
        profile = with_winner(quick_profile(bound, inputs_of(INFERENCE), INFERENCE))
        kernelize_model(bound, profile=profile)
        assert_near({"logits": logits(plain)}, {"logits": bound(**inputs_of(INFERENCE)).logits})
    assert not any(t.is_inference() for t in (*bound.parameters(), *bound.buffers()))
    assert_near(gradients(plain.train()), gradients(bound.train()))
    restore_model(bound)
    assert_near(gradients(plain), gradients(bound))


@pytest.mark.parametrize(
    ("family", "default"), by_day([("llama", torch.float64), ("gemma3", torch.bfloat16), ("phi", torch.float64)], 3)
)
def test_another_default_dtype(family: str, default: torch.dtype) -> None:
    """Under another default dtype the same rivals are right, and what is bound computes in the model's dtype."""
    plain, bound = plain_and_bound(family, INFERENCE)
    usual = _right(winners(family, INFERENCE))
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        assert _right(quick_profile(plain, inputs_of(INFERENCE), INFERENCE)) == usual
        assert torch.get_default_dtype() == default
        assert_near({"logits": logits(plain)}, {"logits": logits(bound)})
        assert logits(bound).dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


def _right(profile: Any) -> set[tuple[str, str, str]]:
    return {
        (contest.slot.name, contest.workload.key, trial.candidate)
        for contest in profile.contests
        for trial in contest.trials
        if trial.outcome.kind == "measurement"
    }


def _width(module: Any) -> int:
    """The width that a layer takes: of its weight's last dimension, or of its first linear layer."""
    weights: list[Tensor] = [p for p in module.parameters() if p.dim()]
    return weights[0].shape[-1] if weights else 16
