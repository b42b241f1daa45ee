"""Time budgets, and which contests come first."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.told import told_clock
from tests.tune import toy
from tests.tune.toy import Norm, norm, spin
from twinkle_tune import load_profile, tune_model
from twinkle_tune.capture.capture import Observation, capture
from twinkle_tune.capture.step import make_steps
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.kernel.find import find_slots
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.measure.roof import Roof, measured_roof
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Profile, Seen
from twinkle_tune.tune.budget import Budget, budget_of
from twinkle_tune.tune.events import ContestFinished, Event
from twinkle_tune.tune.order import bound

WIDTHS = tuple(range(8, 128, 8))


class Many(nn.Module):
    """Norms of many widths: as many contests."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(Norm(width) for width in WIDTHS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, 128) to (rows,)."""
        return torch.stack([norm(x[:, :width]).sum(-1) for norm, width in zip(self.norms, WIDTHS, strict=True)]).sum(0)


def unsteady(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """As the original, give or take: a race that goes on for long."""
    spin(195 + 10 * torch.rand(()).item())
    return norm(self, x)


def tuned(budget_s: float | None, events: list[Event]) -> Profile:
    """A profile of :class:`Many`, whose races take long."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=unsteady, device="cpu", registry=registry)
    register_layer_kernel("Norm", layer_impl=norm, device="cpu", registry=registry)
    return tune_model(
        Many(),
        torch.randn(4, 128),
        registry=registry,
        settings=RaceSettings(max_rounds=400),
        candidates=["impl"],
        budget_s=budget_s,
        on_event=events.append,
    )


def test_a_budget_is_kept_and_no_finished_contest_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run takes no more than 110% of its budget; what was finished in it is in the profile, the rest says why."""
    budget_s, events, clock = 0.3, list[Event](), told_clock(monkeypatch)

    def spun(time_us: float) -> None:
        clock.us += time_us

    def now_s() -> float:
        clock.us += 10.0  # whoever asks for the time again and again sees it pass
        return clock.us / 1e6

    for module in (toy, sys.modules[__name__]):
        monkeypatch.setattr(module, "spin", spun)
    monkeypatch.setattr(time, "monotonic", now_s)
    profile = tuned(budget_s, events)
    assert clock.us / 1e6 <= 1.1 * budget_s
    assert len(profile.contests) == len(WIDTHS)
    over = [e.contest for e in events if isinstance(e, ContestFinished) and e.contest.selection.winner != "original"]
    assert over
    kept = {c.workload.key: c for c in load_profile(profile.save(tmp_path / "p.json")).contests}
    for contest in over:
        assert kept[contest.workload.key].trials == contest.trials
    left = [c for c in profile.contests if not c.trials]
    assert left
    assert all(c.selection.reason == "not tried: the time budget was used up" for c in left)
    assert all(step.tuned_us for step in profile.steps)


def test_most_of_a_budget_is_for_the_contests() -> None:
    """Two steps of 6 s get 24 s of a long budget and 30% of a short one."""
    long, short, none = budget_of(300, 2, 6.0), budget_of(10, 2, 6.0), budget_of(None, 2, 6.0)
    assert long.ends_s is not None
    assert long.contests_end_s is not None
    assert long.ends_s - long.contests_end_s == pytest.approx(24)
    assert short.ends_s is not None
    assert short.contests_end_s is not None
    assert short.ends_s - short.contests_end_s == pytest.approx(3)
    assert none == Budget()
    assert not none.is_used_up


def observation_of(module: nn.Module, x: torch.Tensor, share: float) -> Observation:
    """The one call of a norm, with an invented share of the step."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    steps = make_steps(module, x, Mode.INFERENCE, "cpu")
    (seen,) = capture(module, steps, find_slots(module, registry), "cpu").observations
    return replace(seen, seen=(Seen(step="forward", calls=2, share=share),))


def test_what_is_near_the_roof_comes_later() -> None:
    """A slot that takes twice the time of another, all of it for moving bytes, can save less."""
    wide = observation_of(nn.Sequential(Norm(1024)), torch.randn(512, 1024), share=0.4)
    small = observation_of(nn.Sequential(Norm(8)), torch.randn(4, 8), share=0.2)
    step_us = {"forward": 1000.0}
    # 512 x 1024 floats in and out are 4 MiB a call: 200 us at this rate.
    roof = Roof(bytes_per_us=(1 << 22) / 200, flops_per_us=1e6)
    assert bound(wide, step_us, roof)["forward"] == pytest.approx(0.0, abs=0.001)
    assert bound(small, step_us, roof)["forward"] == pytest.approx(0.2, abs=0.001)
    faster = replace(roof, bytes_per_us=10 * roof.bytes_per_us)
    assert bound(wide, step_us, faster)["forward"] > bound(small, step_us, faster)["forward"]


def test_a_matrix_counts_its_products() -> None:
    """A layer with a matrix of 64 x 64 and 8 rows has 65,536 operations to do."""
    seen = observation_of(nn.Sequential(Norm(64)), torch.randn(8, 64), share=0.2)
    seen = replace(seen, module=nn.Linear(64, 64, bias=False))
    slow = Roof(bytes_per_us=1e9, flops_per_us=65_536 / 50)
    assert bound(seen, {"forward": 1000.0}, slow)["forward"] == pytest.approx(0.2 - 2 * 0.05, abs=0.0001)


def test_the_roof_of_this_machine_is_a_rate() -> None:
    """Copying and multiplying reach rates above 100 MB/s and 100 MFLOP/s on anything that runs this."""
    roof = measured_roof(torch.device("cpu"), torch.float32)
    assert roof.bytes_per_us > 100
    assert roof.flops_per_us > 100
