"""On a CUDA device: our RMSNorm in a contest is searched in the worker process, and bound with what was found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.tune.toy import QUICK
from twinkle_tune import kernelize_model, restore_model, tune_model
from twinkle_tune.ops.rms_norm import op
from twinkle_tune.tune import tuned as tuning
from twinkle_tune.tune.isolated import Isolated

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


class Norm(nn.Module):
    """Llama's RMSNorm in plain operations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.variance_epsilon = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) to (..., width)."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * normed.to(x.dtype)


@pytest.mark.parametrize("mode", ["inference", "train"])
@pytest.mark.timeout(900)
def test_our_kernel_is_searched_and_bound_with_its_config(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial has a config of the op's space, the bound layer calls the op with it, and applying searches nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(Norm(4096)).to("cuda", torch.bfloat16)
    x = torch.randn(2048, 4096, device="cuda", dtype=torch.bfloat16, requires_grad=mode == "train")
    with Isolated() as executor:
        profile = tune_model(model, x, mode=mode, candidates=["triton"], settings=QUICK, executor=executor)
    (contest,) = profile.contests
    found = contest.trial("triton")
    assert found.config is not None, found.config_origin
    op.OPS[0].space({"rows": 2048, "width": 4096}).check(found.config)
    assert "configs timed" in found.config_origin
    if mode == "inference":
        default = op.OPS[0].default({"rows": 2048, "width": 4096}, 90)
        assert all(found.config[name] == default[name] for name in default if name.startswith("back_"))
    assert contest.selection.winner == "triton"
    seen: list[object] = []
    real = op.rms_norm

    def watched(*args: torch.Tensor, **settings: Any) -> torch.Tensor:
        seen.append(settings["config"])
        return real(*args, **settings)

    monkeypatch.setattr(op, "rms_norm", watched)
    monkeypatch.setattr(tuning, "tuned", None)
    kernelize_model(model, mode=mode, device="cuda", profile=profile)
    model(x)
    restore_model(model)
    assert seen == [found.config]
