"""``candidates=``: which names are taken, and which are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.tune.toy import Norm
from twinkle_tune import tune_model
from twinkle_tune.errors import RegistrationError
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel


class Half(nn.Module):
    """One of its two layers is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.never = nn.Linear(4, 4), Norm(4)

    def forward(self, x: Tensor) -> Tensor:
        """(..., 4) to (..., 4)."""
        out: Tensor = self.first(x)
        return out


def fine(self: nn.Module, x: Tensor) -> Tensor:
    """As the norm."""
    return Norm.forward(self, x)  # type: ignore[arg-type]


def test_a_name_of_a_slot_that_is_never_called_is_no_mistake() -> None:
    """The run ends with no contest for it; a name that no slot has at all is refused, with what there is."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=fine, device="cpu", registry=registry)
    for wanted in ("impl", "impl:fine"):
        profile = tune_model(Half(), torch.randn(2, 4), candidates=wanted, registry=registry)
        assert profile.contests == ()
    with pytest.raises(RegistrationError, match=r"got 'impl:fin', which no slot of this model has .*impl:fine"):
        tune_model(Half(), torch.randn(2, 4), candidates="impl:fin", registry=registry)
