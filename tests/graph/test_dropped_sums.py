"""Dropout, residual sum and norm as one piece while the dropout drops: what is dropped is the original's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.graph.test_pattern_slots import profile_of
from twinkle_tune import kernelize_model, kernelize_report, register_pattern_kernel, restore_model
from twinkle_tune.catalog.add_norm import ADD_NORM
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.testing import with_winner


class Mixed(nn.Module):
    """A block that ends as BERT's does, or goes on with the sum as GPT-2's does."""

    def __init__(self, norm: nn.Module, *, reads_sum: bool) -> None:
        super().__init__()
        self.mix, self.dropout, self.norm = nn.Sequential(nn.Linear(16, 16)), nn.Dropout(0.3), norm
        self.reads_sum = reads_sum

    def forward(self, x: Tensor) -> Any:
        """(..., 16) to (..., 16)."""
        total = x + self.dropout(self.mix(x))
        normed = self.norm(total)
        return total + normed if self.reads_sum else normed


class Stack(nn.Module):
    """Two of them."""

    def __init__(self, kind: type[nn.Module], *, reads_sum: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Mixed(kind(16), reads_sum=reads_sum) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        """(..., 16) to (..., 16)."""
        for layer in self.layers:
            x = layer(x)
        return x


def stepped(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What a training step gives from one seed: the output, and all gradients."""
    torch.manual_seed(5)
    out = model(x)
    return [out, *torch.autograd.grad(out.square().sum(), [x, *model.parameters()])]


@pytest.mark.parametrize("reads_sum", [True, False], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_it_trains_as_the_original(kind: type[nn.Module], reads_sum: bool) -> None:
    """Every candidate is right while elements are dropped; a step with the winner is the original's, from one seed."""
    model, x = Stack(kind, reads_sum=reads_sum).train(), torch.randn(4, 6, 16, requires_grad=True)
    profile = profile_of(model, {"x": x}, Mode.TRAIN)
    contests = [c for c in profile.contests if c.slot.name == ADD_NORM]
    assert contests
    for contest in contests:
        assert not [t for t in contest.trials if isinstance(t.outcome, Rejection)]
        assert sum(isinstance(t.outcome, Measurement) for t in contest.trials) >= 2
    before = stepped(model, x)
    kernelize_model(model, profile=with_winner(profile), use_fallback=False)
    assert len(kernelize_report(model).bound) == 2
    # Sums in another order differ by roundings; another choice of what is dropped would differ in the first digit.
    torch.testing.assert_close(stepped(model, x), before, rtol=1e-4, atol=1e-5)
    restore_model(model)
    assert all(map(torch.equal, stepped(model, x), before))


class Ended(nn.Module):
    """The pattern, for kernels of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(0.3), nn.LayerNorm(1)

    def forward(self, x: Tensor, residual: Tensor) -> Any:
        """The norm of the sum."""
        return self.norm(residual + self.dropout(x))


def right(self: Any, x: Tensor, residual: Tensor) -> Any:
    """The same operations."""
    return self.norm(residual + self.dropout(x))


def drops_nothing(self: Any, x: Tensor, residual: Tensor) -> Any:
    """As if it evaluated."""
    return self.norm(residual + x)


def drops_the_sum(self: Any, x: Tensor, residual: Tensor) -> Any:
    """After the residual instead of before."""
    return self.norm(self.dropout(residual + x))


def drops_others(self: Any, x: Tensor, residual: Tensor) -> Any:
    """As many, but not the same."""
    torch.rand(1)
    return self.norm(residual + self.dropout(x))


WRONG = (drops_nothing, drops_the_sum, drops_others)


def test_wrong_replacements_are_refused() -> None:
    """Nothing dropped, the sum dropped, other elements dropped: by parity. The right one is not."""
    registry = Registry()
    for replacement in (right, *WRONG):
        register_pattern_kernel("Ended", Ended, replacement, device="cpu", registry=registry)
    model, x = Stack(nn.LayerNorm, reads_sum=False).train(), torch.randn(4, 6, 16, requires_grad=True)
    profile = profile_of(model, {"x": x}, Mode.TRAIN, candidates=["impl"], registry=registry)
    contests = [c for c in profile.contests if c.slot.name == "Ended"]
    assert contests
    for contest in contests:
        refused = {t.candidate for t in contest.trials if isinstance(t.outcome, Rejection)}
        assert refused == {f"impl:{each.__name__}" for each in WRONG}
