"""The clock for slots under CUDA graphs: device time alone, nothing of what the host needs to launch."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from twinkle_tune.errors import TuneError, in_a_line
from twinkle_tune.measure.clock import Call, CudaClock, cuda_block_calls

_WARM_CALLS = 3
"""Calls on a side stream before a capture: lazily made handles and workspaces must not be made within it."""


class CaptureError(TuneError):
    """A call cannot be captured in a CUDA graph, so it has no time there."""


class GraphClock(CudaClock):
    """Time between two device events around replays of a captured graph of many calls.

    For models that run under CUDA graphs, where a small kernel is not bound by its launch: who wins in a row of
    eager calls may lose there, and the other way round. A graph is captured once for each call, with the calls of
    its block in it, and kept with the memory that it works on until the clock is dropped.
    """

    name = "CUDA graph device time"

    def __init__(self, device: str = "cuda") -> None:
        """As :class:`CudaClock`."""
        super().__init__(device)
        self._graphs: dict[tuple[Call, int], torch.cuda.CUDAGraph] = {}

    def block_calls(self, call: Call) -> int:
        """Calls in the captured graph: as many as :func:`cuda_block_calls` says for the time of one.

        Raises:
            CaptureError: the call cannot be captured.
        """
        tried = 10
        one_us = self._replay_us(self._graph(call, tried)) / tried
        del self._graphs[call, tried]
        return cuda_block_calls(one_us)

    def burst_us(self, call: Call, block_calls: int) -> float:
        """As :meth:`Clock.burst_us`, but a block is one replay; an untimed replay first, then the median of five.

        Raises:
            CaptureError: the call cannot be captured.
            ClockFault: a time was zero or negative.
        """
        if block_calls < 1:
            raise ValueError(f"block_calls: got {block_calls}, expected at least 1; ask Clock.block_calls")
        graph = self._graph(call, block_calls)
        self._replay_us(graph)
        return median(self._replay_us(graph) for _ in range(5)) / block_calls

    def _graph(self, call: Call, calls: int) -> torch.cuda.CUDAGraph:
        graph = self._graphs.get((call, calls))
        if graph is None:
            graph = self._graphs[call, calls] = self._captured(call, calls)
        return graph

    def _captured(self, call: Call, calls: int) -> torch.cuda.CUDAGraph:
        # What a call returns is let go within the capture, so that the next one gets the same memory, as in a model.
        with torch.cuda.device(self._device):
            self.synchronize()
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            with torch.cuda.stream(side):
                for _ in range(_WARM_CALLS):
                    call()
            self.synchronize()
            drawn = torch.cuda.get_rng_state(self._device)
            stream_before, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=pool, stream=side):
                    for _ in range(calls):
                        call()
            except Exception as error:
                # The candidate's code may raise anything, and torch leaves a failed capture half undone.
                torch.cuda.set_stream(stream_before)
                _end_allocating_to(pool)
                self._let_draw_again(drawn)
                raise _not_captured(error) from error
            try:
                graph.replay()
                self.synchronize()
            except Exception as error:
                raise _not_captured(error) from error
            return graph

    def _let_draw_again(self, drawn: torch.Tensor) -> None:
        """Give the device's generator a new state: after a failed capture the old one refuses to draw numbers."""
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(torch.Generator(self._device).graphsafe_get_state())
        generator.set_state(drawn)

    def _replay_us(self, graph: torch.cuda.CUDAGraph) -> float:
        with torch.cuda.device(self._device):
            return self.event_us(graph.replay)


def _not_captured(error: Exception) -> CaptureError:
    return CaptureError(f"cannot be captured in a CUDA graph: {in_a_line(error)}")


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
