"""Clocks with cold caches."""

from __future__ import annotations

import pytest
import torch

from tests.measure.test_clock import NEEDS_CUDA, FakeTime
from tests.shorter import LAST_CACHE_BYTES as last_cache_bytes
from twinkle_tune.errors import DeviceError
from twinkle_tune.measure import cold as cold_module
from twinkle_tune.measure.clock import CpuClock
from twinkle_tune.measure.cold import ColdCpuClock, cold_clock


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps are as large as they are outside of the tests."""
    monkeypatch.setattr(cold_module, "last_cache_bytes", last_cache_bytes)


def test_the_sweep_is_done_before_each_call_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 11 timed calls and the untimed one comes after a sweep, which is in no figure."""
    fake, swept = FakeTime(monkeypatch), []
    clock = ColdCpuClock()
    add = clock._buffer.add_

    def sweep(one: float) -> None:
        add(one)
        swept.append(fake.calls)
        fake.now_ns += 5_000_000

    monkeypatch.setattr(clock._buffer, "add_", sweep)
    assert clock.burst_us(fake.work(10.0), 11) == pytest.approx(10.0)
    assert swept == list(range(12))


def test_the_sweep_is_larger_than_the_last_cache() -> None:
    """The buffer is twice as large as the cache, which is at least 64 KiB on any machine."""
    buffer = ColdCpuClock()._buffer
    assert buffer.numel() * buffer.element_size() >= 2 * last_cache_bytes() - 4
    assert last_cache_bytes() >= 2**16


def test_reading_from_memory_takes_longer_than_from_a_cache() -> None:
    """Half a megabyte is summed in more time after a sweep than in a row of calls."""
    x = torch.randn(2**17)
    hot, cold = CpuClock(), cold_clock("cpu")
    hot_us = min(hot.burst_us(x.sum, hot.block_calls(x.sum)) for _ in range(3))
    assert cold.burst_us(x.sum, 21) > hot_us


def test_a_device_without_a_clock_has_no_cold_one() -> None:
    """Refused as the clock itself is."""
    with pytest.raises(DeviceError, match="no clock"):
        cold_clock("mps")


@pytest.mark.gpu
@NEEDS_CUDA
def test_reading_from_device_memory_takes_longer_than_from_its_cache() -> None:
    """16 MiB, which an L2 cache of 40 MiB or more holds, are summed in more time when it is cold."""
    if torch.cuda.get_device_properties(0).L2_cache_size < 40 * 2**20:
        pytest.skip("this device's L2 cache is smaller than 40 MiB")
    from twinkle_tune.measure.graph import GraphClock

    x = torch.randn(2**22, device="cuda")
    hot, cold = GraphClock(), cold_clock("cuda")
    assert cold.burst_us(x.sum, cold.block_calls(x.sum)) > hot.burst_us(x.sum, hot.block_calls(x.sum))
