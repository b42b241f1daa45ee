"""The clock for slots on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from tests.measure.test_clock import FakeTime
from twinkle_tune.measure import between
from twinkle_tune.measure.between import BetweenCpuClock
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.measure.run import run_race


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """Time under the test's control, in which the other work takes a millisecond."""
    fake = FakeTime(monkeypatch)
    monkeypatch.setattr(BetweenCpuClock, "_other_work", lambda self: fake.work(1000.0)())
    return fake


@pytest.mark.parametrize(("call_us", "calls"), [(10.0, 11), (3_000.0, 7), (30_000.0, 5), (150_000.0, 3), (1e6, 1)])
def test_bursts_of_long_calls_are_short(
    fake: FakeTime, as_it_is: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, call_us: float, calls: int
) -> None:
    """Eleven single calls of what takes microseconds, one of what takes a second."""
    monkeypatch.setattr(between, "_SINGLE_CALLS", as_it_is["_SINGLE_CALLS"])
    assert BetweenCpuClock().block_calls(fake.work(call_us)) == calls


def test_the_other_work_is_done_and_not_timed(fake: FakeTime) -> None:
    """Before each call the other work runs, and none of its time is in the figure."""
    clock = BetweenCpuClock()
    assert clock.burst_us(fake.work(10.0), 11) == pytest.approx(10.0)
    assert fake.now_ns == (11 + 1) * (10_000 + 1_000_000)


def test_one_slow_call_does_not_move_the_figure(fake: FakeTime) -> None:
    """The median of the single calls is what counts: one that was interrupted does not."""
    times = iter([10.0, 10.0, 500.0, *[10.0] * 9])
    assert BetweenCpuClock().burst_us(lambda: fake.work(next(times))(), 11) == pytest.approx(10.0)


@pytest.mark.parametrize("contests", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_identical_calls_keep_the_original(
    as_it_is: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, contests: int
) -> None:
    """On the real clock no contest of three identical calls is won by anything but the original."""
    for name, size in as_it_is.items():
        monkeypatch.setattr(between, name, size)
    x = torch.randn(64, 256)

    def call() -> torch.Tensor:
        return torch.nn.functional.silu(x)

    clock, settings = BetweenCpuClock(), RaceSettings(max_rounds=25)
    contest = {"original": call, "same": call, "same too": call}
    assert {run_race(contest, clock, settings, seed=seed)[0].winner for seed in range(contests)} == {"original"}
