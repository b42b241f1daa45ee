"""The clock of captured CUDA graphs, and what the eager clock tells beside it."""

from __future__ import annotations

import pytest
import torch

from tests.measure.test_clock import NEEDS_CUDA
from twinkle_tune.call.device_graph import DeviceGraphError
from twinkle_tune.errors import DeviceError
from twinkle_tune.measure.clock import CudaClock
from twinkle_tune.measure.clocks import slot_clock
from twinkle_tune.measure.graph import GraphClock


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_there_is_no_graph_clock() -> None:
    """As for the eager clock, by class and by name."""
    with pytest.raises(DeviceError, match="does not have; pass device='cpu'"):
        GraphClock()
    with pytest.raises(DeviceError, match="does not have"):
        slot_clock("cuda", graphs=True)


def test_a_cpu_has_no_graphs() -> None:
    """To ask for graphs where there are none is refused, with the devices that have them."""
    with pytest.raises(DeviceError, match="CUDA graphs"):
        slot_clock("cpu", graphs=True)


@pytest.mark.gpu
@NEEDS_CUDA
def test_a_small_kernel_is_bound_by_its_launch_in_eager_calls_alone() -> None:
    """An addition of eight numbers takes less time in a graph, and in eager calls about what the host needs."""
    x = torch.randn(8, device="cuda")

    def call() -> torch.Tensor:
        return x + 1

    eager, graph = CudaClock(), GraphClock()
    eager_us = eager.burst_us(call, eager.block_calls(call))
    assert graph.burst_us(call, graph.block_calls(call)) < eager_us
    assert eager.host_us(call, 500) > 0.5 * eager_us


@pytest.mark.gpu
@NEEDS_CUDA
def test_a_large_kernel_takes_the_same_time_on_both_clocks() -> None:
    """A product of 4096 by 4096 is bound by the device: both clocks agree within a fifth."""
    x = torch.randn(4096, 4096, device="cuda")
    eager, graph = CudaClock(), GraphClock()
    times = [clock.burst_us(lambda: x @ x, clock.block_calls(lambda: x @ x)) for clock in (eager, graph)]
    assert times[1] == pytest.approx(times[0], rel=0.2)


@pytest.mark.gpu
@NEEDS_CUDA
def test_a_backward_can_be_captured() -> None:
    """A training step's forward and backward have a time in a graph."""
    x = torch.randn(64, 256, device="cuda", requires_grad=True)
    gradient = torch.randn(64, 256, device="cuda")
    clock = GraphClock()

    def step() -> object:
        return torch.autograd.grad([torch.nn.functional.silu(x)], [x], [gradient])

    assert clock.burst_us(step, clock.block_calls(step)) > 0


@pytest.mark.gpu
@NEEDS_CUDA
def test_what_cannot_be_captured_is_an_error_of_ours() -> None:
    """A call that waits for the device has no place in a graph, and the device works on afterwards."""
    x = torch.randn(8, device="cuda")
    with pytest.raises(DeviceGraphError, match="cannot be captured in a CUDA graph"):
        GraphClock().block_calls(lambda: x.sum().item())
    assert (x + 1).shape == (8,)


@pytest.mark.gpu
@NEEDS_CUDA
def test_a_failed_capture_leaves_the_device_as_it_was() -> None:
    """The default stream is current again, and the memory that the allocator kept goes back to the device."""
    x = torch.randn(8, device="cuda")
    with pytest.raises(DeviceGraphError):
        GraphClock().block_calls(lambda: x.sum().item())
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    kept = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    del kept
    before = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before - (64 << 20)
