"""Clocks, memory and state of a GPU on a stand-in for ``torch.cuda``: order of calls and what is left, no speed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from tests.fake_cuda import TOTAL_BYTES, FakeDevice, FakeStream, install
from tests.tune import hostile
from tests.tune.toy import Norm
from twinkle_tune.call.device_graph import DeviceGraphError
from twinkle_tune.measure import clock as clock_module
from twinkle_tune.measure.clock import CudaClock
from twinkle_tune.measure.cold import ColdCudaClock
from twinkle_tune.measure.graph import GraphClock
from twinkle_tune.measure.state import device_state
from twinkle_tune.outcome import DeviceState
from twinkle_tune.tune.allowance import limit_device
from twinkle_tune.tune.limits import Limits


@pytest.fixture(params=[False, True], ids=["torch before 2.12", "torch from 2.12 on"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A device of either behaviour at the end of a failed capture."""
    found = FakeDevice(ends_failed_captures=request.param)
    install(monkeypatch, found)
    return found


def test_a_failed_capture_leaves_its_process_as_it_was(device: FakeDevice) -> None:
    """The default stream is current again, the allocator has no capture under way, and no pool is held."""
    before = device.stream
    with pytest.raises(DeviceGraphError, match="cannot be captured in a CUDA graph: RuntimeError"):
        GraphClock().block_calls(device.wait)
    assert device.stream is before
    assert device.allocating_to == device.held_pools == []
    assert device.log[-2:] == ["generator gets a new state", "generator gets its seed"]


def test_a_failed_capture_keeps_no_memory(device: FakeDevice) -> None:
    """What the allocator keeps afterwards goes back to the device at ``empty_cache``."""
    with pytest.raises(DeviceGraphError):
        GraphClock().block_calls(device.wait)
    device.allocate(6 << 20)
    device.allocate(-(6 << 20))
    assert torch.cuda.memory_reserved() == 6 << 20
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == 0


def test_after_a_failed_capture_another_call_is_captured(device: FakeDevice) -> None:
    """One candidate that waits for the device does not cost the next one its time in a graph."""
    clock = GraphClock()
    with pytest.raises(DeviceGraphError):
        clock.block_calls(device.wait)
    assert clock.burst_us(lambda: None, 5) == pytest.approx(device.elapsed_ms * 1000 / 5)
    assert device.allocating_to == []


def test_a_call_that_raises_by_itself_within_a_capture(device: FakeDevice) -> None:
    """An error of the call's own ends the capture in order; it is told, and the stream is the default one."""
    before = device.stream

    def call() -> None:
        if device.is_capturing:
            raise ValueError("only eager")

    with pytest.raises(DeviceGraphError, match="only eager"):
        GraphClock().block_calls(call)
    assert device.stream is before
    assert device.allocating_to == []


def test_the_device_sleeps_for_longer_than_the_host_launches(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of 15 ms of launches is timed behind a sleep of 30 ms, one of 10 µs behind one of a millisecond."""
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: torch.ones(4))
    clock = ColdCudaClock()
    for host_us, cycles in ((15_000.0, 60_000_000), (10.0, 2_000_000)):
        device.log.clear()
        monkeypatch.setattr(clock, "host_us", lambda *_, told=host_us: told)
        assert clock.burst_us(lambda: device.log.append("call"), 3) == pytest.approx(500)
        asleep = [line for line in device.log if line.startswith("sleep")]
        assert asleep == [f"sleep {cycles}"] * 3
        # The event stands behind the sleep: what the host does before the call is in no time.
        at = device.log.index(f"sleep {cycles}")
        assert device.log[at : at + 4] == [f"sleep {cycles}", "event", "call", "event"]


def test_the_eager_clock_waits_once_a_block(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst is two untimed calls and five blocks, each with one wait before it and one at its end."""
    times_ns = iter(range(0, 10**9, 1_000_000))
    monkeypatch.setattr(clock_module, "_now_ns", lambda: next(times_ns))
    assert CudaClock().burst_us(lambda: device.log.append("call"), 10) == pytest.approx(100)
    waits = [line == "synchronize" for line in device.log]
    assert device.log.count("call") == 2 + 5 * 10
    assert device.log[-12:] == ["synchronize", *["call"] * 10, "synchronize"]
    assert sum(waits) <= 2 * (2 + 5)


def test_the_peak_is_what_a_call_adds(device: FakeDevice) -> None:
    """From what is allocated before the call, and not from an earlier peak."""
    device.allocate(5000)
    device.allocate(-4000)

    def call() -> None:
        device.allocate(300)
        device.allocate(-300)

    assert CudaClock().peak_bytes(call) == 300
    assert device.allocated_bytes == 1000


def test_a_workers_limit_is_a_share_of_the_device(device: FakeDevice) -> None:
    """What was asked for; without that what the process holds and nine tenths of the rest."""
    device.allocate(TOTAL_BYTES // 2)
    assert limit_device(Limits(device_bytes=TOTAL_BYTES // 4)) == TOTAL_BYTES // 4
    assert limit_device(Limits()) == pytest.approx(0.95 * TOTAL_BYTES, abs=2)
    assert device.log[-2:] == ["limit 0.25", "limit 0.95"]


@pytest.mark.parametrize("name", ["Event", "Throttle"])
def test_what_the_driver_tells(device: FakeDevice, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Clock rate, temperature and why the clock is low, from bindings with the newer name and with the older alone."""
    function = f"nvmlDeviceGetCurrentClocks{name}Reasons"
    library = SimpleNamespace(**{function: lambda handle: {"gpu 0": 0x40 | 0x1}[handle]})
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "clock_rate", lambda name: {"cuda": 1980}[name])
    monkeypatch.setattr(torch.cuda, "temperature", lambda name: {"cuda": 61}[name])
    monkeypatch.setattr(torch.cuda, "_get_pynvml_handler", lambda _: "gpu 0")
    told = DeviceState(clock_mhz=1980.0, temperature_c=61.0, throttling="hardware thermal slowdown")
    assert device_state("cuda") == told


def test_the_drivers_newer_name_is_asked_first(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bindings that have both warn of the older one, or drop it."""

    def older(_: object) -> int:
        raise AssertionError("the older name was asked")

    names = {"nvmlDeviceGetCurrentClocksEventReasons": lambda _: 0x80}
    library = SimpleNamespace(**names, nvmlDeviceGetCurrentClocksThrottleReasons=older)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "_get_pynvml_handler", lambda _: "gpu 0")
    assert device_state("cuda").throttling == "power brake"


def test_a_driver_that_is_silent_is_no_error(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its library nothing is known of the device, and the run goes on."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device_state("cuda") == DeviceState()


def test_work_is_left_on_one_stream(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hostile candidate of the GPU tests leaves its work on the same side stream in every call."""
    monkeypatch.delattr(hostile.side_stream, "stream", raising=False)
    used: list[FakeStream] = []
    monkeypatch.setattr(torch.cuda, "_sleep", lambda _: used.append(device.stream))
    norm = Norm(8)
    for _ in range(3):
        hostile.side_stream(norm, torch.ones(2, 8))
    assert len({id(stream) for stream in used}) == 1
    assert device.stream.name == "default"
    del hostile.side_stream.stream  # type: ignore[attr-defined]
