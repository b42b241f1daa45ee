"""Work captured in a CUDA graph: in a pool and on a stream of its own, and undone where it cannot be captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from twinkle_tune.errors import TuneError, in_a_line

_WARM_CALLS = 3
"""Calls on a side stream before a capture: lazily made handles and workspaces must not be made within it."""


class DeviceGraphError(TuneError):
    """A call cannot be captured in a CUDA graph, or not be replayed."""


def captured(
    device: torch.device, work: Callable[[], object], warm: Callable[[], object], *, alone: bool = True
) -> tuple[torch.cuda.CUDAGraph, int]:
    """Capture work; what it did on the device while it was captured is nothing.

    Args:
        device: of it.
        work: is captured.
        warm: is called on a side stream before.
        alone: whether nobody else is at work in the process; else what other threads ask of the device meanwhile is not
            refused to them.

    Returns:
        The graph, to be replayed, and how many bytes of the device's memory are reserved for it as long as it is kept.

    Raises:
        DeviceGraphError: it cannot be captured. The stream, the allocator and the generator are as they were.
    """
    with torch.cuda.device(device):
        torch.cuda.synchronize(device)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            for _ in range(_WARM_CALLS):
                warm()
        torch.cuda.synchronize(device)
        drawn = torch.cuda.get_rng_state(device)
        stream_before, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            mode = "global" if alone else "thread_local"
            with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode=mode):
                reserved_bytes = torch.cuda.memory_reserved(device)
                work()
                reserved_bytes = torch.cuda.memory_reserved(device) - reserved_bytes
        except Exception as error:
            # The work may raise anything, and torch leaves a failed capture half undone.
            torch.cuda.set_stream(stream_before)
            _end_allocating_to(pool)
            _let_draw_again(device, drawn)
            raise not_captured(error) from error
        return graph, max(0, reserved_bytes)


def not_captured(error: Exception) -> DeviceGraphError:
    """The error of a capture, as it is told."""
    return DeviceGraphError(f"cannot be captured in a CUDA graph: {in_a_line(error)}")


def _let_draw_again(device: torch.device, drawn: torch.Tensor) -> None:
    """Give the device's generator a new state: after a failed capture the old one refuses to draw numbers."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    generator.graphsafe_set_state(torch.Generator(device).graphsafe_get_state())
    generator.set_state(drawn)


def _end_allocating_to(pool: Any) -> None:
    """End the allocations to the memory pool of a failed capture, where torch did not.

    Until torch 2.12 the allocator goes on as if the capture were under way: it then gives no cached memory back,
    neither to ``empty_cache`` nor to its own second try after it ran out.
    """
    device = torch.cuda.current_device()
    try:
        torch._C._cuda_endAllocateToPool(device, pool)
    except RuntimeError:
        return  # torch has ended it, and released the pool
    torch._C._cuda_releasePool(device, pool)
