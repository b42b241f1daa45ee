"""Clocks: block sizes, what a burst calls, faults, and which device has which clock."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from twinkle_tune.errors import DeviceError, TuneError
from twinkle_tune.measure import clock as clock_module
from twinkle_tune.measure.clock import ClockFault, CpuClock, CudaClock, clock_for, cuda_block_calls

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


class FakeTime:
    """A clock that only work moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns, self.calls = 0, 0
        monkeypatch.setattr(clock_module, "_now_ns", lambda: self.now_ns)

    def work(self, time_us: float) -> Callable[[], None]:
        """A call that takes so long."""

        def call() -> None:
            self.calls += 1
            self.now_ns += int(time_us * 1e3)

        return call


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """Time under the test's control."""
    return FakeTime(monkeypatch)


@pytest.mark.parametrize(("call_us", "calls"), [(0.1, 512), (20.0, 4), (49.0, 2), (50.0, 1), (1e6, 1)])
def test_cpu_blocks_take_at_least_50_us(fake: FakeTime, call_us: float, calls: int) -> None:
    """The loop is as long as a block of 50 us needs, in powers of two."""
    assert CpuClock().block_calls(fake.work(call_us)) == calls


def test_sizing_a_long_call_calls_it_twice(fake: FakeTime) -> None:
    """Nobody waits five seconds to learn that a call of one second needs no loop."""
    CpuClock().block_calls(fake.work(1e6))
    assert fake.calls == 2


@pytest.mark.parametrize(
    ("call_us", "block_calls", "made"),
    [(10.0, 8, 2 + 5 * 8), (4_000.0, 1, 2 + 5), (6_000.0, 1, 1 + 1), (500_000.0, 1, 1 + 1)],
)
def test_a_burst_is_two_untimed_calls_and_five_blocks_or_one_of_each(
    fake: FakeTime, call_us: float, block_calls: int, made: int
) -> None:
    """Long calls get fewer blocks; the figure is the time of one call."""
    assert CpuClock().burst_us(fake.work(call_us), block_calls) == pytest.approx(call_us)
    assert fake.calls == made


def test_a_burst_is_the_median_of_its_blocks(fake: FakeTime) -> None:
    """Two blocks of five may be disturbed, and the untimed calls as much as they like."""
    times_us = iter([4000.0, 4000.0, 10.0, 700.0, 10.0, 700.0, 10.0])

    def call() -> None:
        fake.now_ns += int(next(times_us) * 1e3)

    assert CpuClock().burst_us(call, 1) == pytest.approx(10.0)


@pytest.mark.parametrize("step_us", [0.0, -5.0])
def test_no_time_is_a_fault(fake: FakeTime, step_us: float) -> None:
    """A clock that stands still or runs backwards raises an error of our own instead of giving a figure."""
    with pytest.raises(ClockFault, match="expected a positive time"):
        CpuClock().burst_us(fake.work(step_us), 1)
    with pytest.raises(TuneError, match="CPU wall time"):
        CpuClock().first_call_us(fake.work(step_us))


def test_a_block_of_no_calls_is_refused() -> None:
    """A burst without a size says where to get one."""
    with pytest.raises(ValueError, match=r"got 0.*Clock\.block_calls"):
        CpuClock().burst_us(lambda: None, 0)


def test_replacing_the_timer_later_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that puts its own function in the time module is still timed by the real one."""
    monkeypatch.setattr(time, "perf_counter_ns", lambda: 0)
    assert CpuClock().burst_us(lambda: sum(range(1000)), 10) > 0


def test_cpu_clock_tells_real_time() -> None:
    """A call that sleeps 2 ms is never said to take less, and at times hardly more: others may take the core."""
    clock = clock_for("cpu")
    first_us = [clock.first_call_us(lambda: time.sleep(0.002)) for _ in range(10)]
    bursts_us = [clock.burst_us(lambda: time.sleep(0.002), 1) for _ in range(5)]
    assert 2000 <= min(first_us) < 50_000
    assert 2000 <= min(bursts_us) < 50_000


@pytest.mark.parametrize(
    ("call_us", "calls"), [(1.0, 500), (20.0, 250), (50.0, 200), (100.0, 200), (400.0, 50), (1e6, 1)]
)
def test_cuda_blocks_are_200_to_500_calls_and_at_most_20_ms(call_us: float, calls: int) -> None:
    """Short calls are timed by the hundreds, long ones as often as 20 ms allow."""
    assert cuda_block_calls(call_us) == calls


@pytest.mark.parametrize(
    ("device", "message"),
    [("tpu", "expected one of cpu"), ("mps", "no clock, expected one of cpu, cuda, rocm")],
)
def test_a_device_without_a_clock_is_refused(device: str, message: str) -> None:
    """An unknown device, or one that nothing times, is an error that lists those there are."""
    with pytest.raises(DeviceError, match=message):
        clock_for(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_refused() -> None:
    """Without a CUDA device there is no CUDA clock, and the message says what to pass."""
    for make in (clock_for, CudaClock):
        with pytest.raises(DeviceError, match="does not have; pass device='cpu'"):
            make("cuda")


@pytest.mark.gpu
@NEEDS_CUDA
def test_cuda_clock_waits_for_the_device() -> None:
    """A large product takes as long as the fastest device needs, though its launch returns at once."""
    clock = clock_for("cuda")
    left = torch.randn(4096, 4096, device="cuda")
    calls = clock.block_calls(lambda: left @ left)
    time_us = clock.burst_us(lambda: left @ left, calls)
    # 2 * 4096**3 floating-point operations at no more than 5e15 a second.
    assert time_us > 2 * 4096**3 / 5e15 * 1e6
    assert calls * time_us < 60_000


@pytest.mark.gpu
@NEEDS_CUDA
def test_cuda_clock_sees_the_memory_that_a_call_takes() -> None:
    """A call that makes a tensor of 64 MiB takes 64 MiB beyond what was there."""
    there = torch.empty(2**20, device="cuda")
    assert clock_for("cuda").peak_bytes(lambda: torch.empty(2**24, device="cuda")) == 2**26
    assert there.numel() == 2**20
