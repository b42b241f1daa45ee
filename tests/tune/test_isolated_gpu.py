"""What a candidate can do to a CUDA device, in a real worker process."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tune import hostile
from tests.tune.test_isolated import outcomes
from tests.tune.toy import QUICK, Norm
from twinkle_tune import tune_model
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.profile.schema import Contest
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.limits import Limits

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


def contest_of(*impls: object, limits: Limits | None = None) -> Contest:
    """A contest of a norm on the device, in a worker process."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    for impl in impls:
        register_layer_kernel("Norm", layer_impl=impl, device="cuda", registry=registry)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model, x = nn.Sequential(Norm(64)).cuda(), torch.randn(256, 64, device="cuda")
    with Isolated(limits) as executor:
        profile = tune_model(model, x, registry=registry, settings=QUICK, candidates=["impl"], executor=executor)
    assert "tried in the process" not in profile.contests[0].selection.reason
    return profile.contests[0]


def test_a_broken_cuda_context_is_its_authors() -> None:
    """Whoever makes the device unusable is refused with that; its rival is measured in a new process, and wins."""
    contest = contest_of(hostile.corrupts, hostile.fine)
    refused = outcomes(contest)["corrupts"]
    assert isinstance(refused, Rejection)
    assert "device" in refused.reason
    assert contest.selection.winner == "impl:fine"


def test_device_memory_has_a_limit() -> None:
    """Whoever takes more of the device's memory than allowed is refused with the limit; its rival is untouched."""
    contest = contest_of(hostile.device_hoard, hostile.fine, limits=Limits(device_bytes=1 << 30))
    refused = outcomes(contest)["device_hoard"]
    assert isinstance(refused, Rejection)
    assert "took more device memory than allowed (limit 1.0 GiB)" in refused.reason
    assert contest.selection.winner == "impl:fine"


def test_work_left_on_a_side_stream_is_paid_by_its_author() -> None:
    """Work that goes on when the call returns counts in its author's time, and in nobody else's."""
    alone, beside = contest_of(hostile.fine), contest_of(hostile.fine, hostile.side_stream)
    slow, fine = (outcomes(beside)[name] for name in ("side_stream", "fine"))
    assert beside.selection.winner == "impl:fine"
    assert isinstance(slow, Measurement)
    assert isinstance(fine, Measurement)
    own = outcomes(alone)["fine"]
    assert isinstance(own, Measurement)
    assert slow.median_us > 1000
    assert fine.median_us < 2 * own.median_us
