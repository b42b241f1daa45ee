"""transformers' own kernels beside ours: never both on one model, and never silently."""

from __future__ import annotations

import copy

import pytest
import torch
from kernels import use_kernel_mapping
from torch import nn

from tests.coexistence.tiny import bind, kernelized_logits, known, logits, profile, tiny_llama
from tests.versions import NEEDS_MARKED_CLASSES
from twinkle_tune.errors import BindError
from twinkle_tune.kernel import kernelize_model, kernelize_report, restore_model


class Tripled(nn.Module):
    """A Hub layer's form: the norm times three."""

    weight: torch.Tensor

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Of the original layer, with its weight."""
        return hidden_states * self.weight * 3


class Repo:
    """A repository object as a mapping holds it."""

    def load(self) -> type[nn.Module]:
        """The layer."""
        return Tripled


MAPPING = {"RMSNorm": {"cpu": Repo()}}


@NEEDS_MARKED_CLASSES
def test_use_kernels_before_us() -> None:
    """A model that transformers kernelized is left to transformers: refused, or with fallback left alone."""
    model = tiny_llama()
    with use_kernel_mapping(MAPPING):
        model.use_kernels = True
        theirs = logits(model)
        with pytest.warns(UserWarning, match="transformers binds kernels of its own to this model"):
            kernelize_model(model, profile=profile(), registry=known())
        with pytest.raises(BindError, match="load it without use_kernels"):
            kernelize_model(model, profile=profile(), registry=known(), use_fallback=False)
        assert torch.equal(logits(model), theirs)
        model.train().eval()
        assert torch.equal(logits(model), theirs)
    assert not torch.equal(theirs, logits(tiny_llama()))


@NEEDS_MARKED_CLASSES
@pytest.mark.parametrize("mapping", [MAPPING, {}])
def test_use_kernels_after_us(mapping: dict[str, dict[str, object]]) -> None:
    """transformers replaces what was bound, and the report says that it does not run any more."""
    model, plain = tiny_llama(), tiny_llama()
    bind(model)
    with use_kernel_mapping(mapping):
        model.use_kernels = plain.use_kernels = True
        assert torch.equal(logits(model), logits(plain))
        report = kernelize_report(model)
        assert not report.bound
        assert all("use_kernels=True does that at each train()" in kept.reason for kept in report.kept)
        assert len(report.kept) == 5


@NEEDS_MARKED_CLASSES
@pytest.mark.filterwarnings("ignore:.*its forward was replaced by somebody else")
def test_restoring_what_transformers_replaced() -> None:
    """Restoring takes nothing away from transformers."""
    model = tiny_llama()
    bind(model)
    with use_kernel_mapping(MAPPING):
        model.use_kernels = True
        theirs = logits(model)
        restore_model(model)
        assert torch.equal(logits(model), theirs)


def test_train_and_eval() -> None:
    """train() and eval() leave the kernels of a kernelized model where they are."""
    model = tiny_llama()
    bind(model)
    model.train().eval()
    assert torch.equal(logits(model), kernelized_logits())
    assert len(kernelize_report(copy.deepcopy(model)).bound) == 5


def test_generate() -> None:
    """generate() runs the kernels at each token, of other row counts too."""
    model, plain = tiny_llama(), tiny_llama()
    bind(model)
    options = {"max_new_tokens": 4, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    start = torch.arange(6).view(1, 6)
    assert model.generate(start, **options).shape == plain.generate(start, **options).shape
    with torch.no_grad():
        assert not torch.equal(model(start[:, :1]).logits, plain(start[:, :1]).logits)
