"""Clocks of a GPU on a stand-in for ``torch.cuda``: order of calls and what is left behind, no value and no speed."""

from __future__ import annotations

import pytest

from tests.fake_cuda import FakeDevice, install
from twinkle_tune.measure.cold import ColdCudaClock
from twinkle_tune.measure.graph import CaptureError, GraphClock


@pytest.fixture(params=[False, True], ids=["torch before 2.12", "torch from 2.12 on"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A device of either behaviour at the end of a failed capture."""
    found = FakeDevice(ends_failed_captures=request.param)
    install(monkeypatch, found)
    return found


def test_a_failed_capture_leaves_its_process_as_it_was(device: FakeDevice) -> None:
    """The default stream is current again, the allocator has no capture under way, and no pool is held."""
    before = device.stream
    with pytest.raises(CaptureError, match="cannot be captured in a CUDA graph: RuntimeError"):
        GraphClock().block_calls(device.wait)
    assert device.stream is before
    assert device.allocating_to == device.held_pools == []
    assert device.log[-2:] == ["generator gets a new state", "generator gets its seed"]


def test_after_a_failed_capture_another_call_is_captured(device: FakeDevice) -> None:
    """One candidate that waits for the device does not cost the next one its time in a graph."""
    clock = GraphClock()
    with pytest.raises(CaptureError):
        clock.block_calls(device.wait)
    assert clock.burst_us(lambda: None, 5) == pytest.approx(device.elapsed_ms * 1000 / 5)
    assert device.allocating_to == []


def test_a_call_that_raises_by_itself_within_a_capture(device: FakeDevice) -> None:
    """An error of the call's own ends the capture in order; it is told, and the stream is the default one."""
    before = device.stream

    def call() -> None:
        if device.is_capturing:
            raise ValueError("only eager")

    with pytest.raises(CaptureError, match="only eager"):
        GraphClock().block_calls(call)
    assert device.stream is before
    assert device.allocating_to == []


def test_the_device_sleeps_for_longer_than_the_host_launches(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of 15 ms of launches is timed behind a sleep of 30 ms, one of 10 µs behind one of a millisecond."""
    import torch

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
