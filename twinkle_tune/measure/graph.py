"""The clock for slots under CUDA graphs: device time alone, nothing of what the host needs to launch."""

from __future__ import annotations

from statistics import median

import torch

from twinkle_tune.call.device_graph import captured, not_captured
from twinkle_tune.measure.clock import Call, CudaClock, cuda_block_calls


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
            DeviceGraphError: the call cannot be captured.
        """
        tried = 10
        one_us = self._replay_us(self._graph(call, tried)) / tried
        del self._graphs[call, tried]
        return cuda_block_calls(one_us)

    def burst_us(self, call: Call, block_calls: int) -> float:
        """As :meth:`Clock.burst_us`, but a block is one replay; an untimed replay first, then the median of five.

        Raises:
            DeviceGraphError: the call cannot be captured.
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
        def block() -> None:
            # What a call returns is let go within the capture: the next one gets the same memory, as in a model.
            for _ in range(calls):
                call()

        graph, _ = captured(self._device, block, call)
        try:
            with torch.cuda.device(self._device):
                graph.replay()
                self.synchronize()
        except Exception as error:
            raise not_captured(error) from error
        return graph

    def _replay_us(self, graph: torch.cuda.CUDAGraph) -> float:
        with torch.cuda.device(self._device):
            return self.event_us(graph.replay)
