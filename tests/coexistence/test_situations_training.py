"""Situations from public reports about replaced, fused or compiled layers: training (docs/situations.md)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from tests.capture.tiny_models import inputs_of, tiny
from tests.coexistence.bound import FAMILIES, assert_near, gradients, plain_and_bound, winners
from tests.today import by_day
from tests.zoo.quick import quick_profile
from twinkle_tune import kernelize_model, kernelize_report
from twinkle_tune.mode import Mode
from twinkle_tune.testing import with_winner

TODAY = by_day(FAMILIES, 3)
"""A family a day: the others are left to ``make slow``."""
WITH_HEAD_TODAY = by_day(["llama", "mistral", "gemma3"], 3)
TRAIN = Mode.TRAIN


def _freeze(model: Any) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" not in name and "mlp" not in name)


@pytest.mark.parametrize("family", TODAY)
def test_frozen_after_binding(family: str) -> None:
    """Parameters that are frozen after binding get no gradient; the others get theirs."""
    plain, bound = plain_and_bound(family, TRAIN)
    for model in (plain, bound):
        _freeze(model)
    assert_near(gradients(plain), gradients(bound))


@pytest.mark.parametrize("family", TODAY)
def test_thawed_after_binding(family: str) -> None:
    """Parameters that were frozen when the model was profiled get their gradients once they are not."""
    plain, bound = tiny(family).train(), tiny(family).train()
    _freeze(bound)
    kernelize_model(bound, profile=with_winner(quick_profile(bound, inputs_of(TRAIN), TRAIN)))
    bound.requires_grad_(True)
    found = gradients(bound)
    assert {name for name, _ in bound.named_parameters()} <= found.keys()
    assert_near(gradients(plain), found)


@pytest.mark.parametrize("family", WITH_HEAD_TODAY)
def test_resized_vocabulary(family: str) -> None:
    """A vocabulary that grows after head and loss were bound as one has its new classes in the loss."""
    plain, bound = plain_and_bound(family, TRAIN, head=True)
    for model in (plain, bound):
        torch.manual_seed(0)
        model.resize_token_embeddings(80, mean_resizing=False)
    ids = torch.randint(60, 80, (2, 12), generator=torch.Generator().manual_seed(0))
    assert_near(gradients(plain, input_ids=ids, labels=ids), gradients(bound, input_ids=ids, labels=ids))
    assert bound(input_ids=ids, labels=ids).logits.shape[-1] == 80


@pytest.mark.parametrize("counted", [0, 1, 2])
@pytest.mark.parametrize("family", WITH_HEAD_TODAY)
def test_ignored_labels(family: str, counted: int) -> None:
    """With few labels that count, or none, loss and gradients are the original's, NaN for NaN."""
    plain, bound = plain_and_bound(family, TRAIN, head=True)
    labels = torch.full((2, 12), -100)
    labels[0, 1 : 1 + counted] = torch.arange(7, 7 + counted)
    assert_near(gradients(plain, labels=labels), gradients(bound, labels=labels))
    for items in (1, torch.tensor(5)):
        wanted = gradients(plain, labels=labels, num_items_in_batch=items)
        assert_near(wanted, gradients(bound, labels=labels, num_items_in_batch=items))


def _per_sample(model: Any) -> dict[str, Tensor]:
    """The gradients of each sequence by itself, by torch.func, in one pass over both."""
    state = {name: p.detach() for name, p in model.named_parameters()}

    def loss(given: dict[str, Tensor], ids: Tensor) -> Any:
        inputs = {"input_ids": ids[None], "labels": ids[None], "use_cache": False}
        return functional_call(model, given, (), inputs).loss

    found: dict[str, Tensor] = vmap(grad(loss), (None, 0))(state, inputs_of(TRAIN)["input_ids"])
    return found


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("family", WITH_HEAD_TODAY)
def test_gradients_of_each_sample(family: str, head: bool) -> None:
    """torch.func takes the gradient of a bound model as it does of the plain one, each sample by itself."""
    plain, bound = plain_and_bound(family, TRAIN, head=head)
    assert kernelize_report(bound).bound
    assert winners(family, TRAIN, head=head).winners
    assert_near(_per_sample(plain), _per_sample(bound))
