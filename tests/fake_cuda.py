"""A stand-in for ``torch.cuda`` without a device: streams, captures, events and memory, as notes of what was done.

It lets the Python paths that need CUDA run in CI. It finds wrong names and signatures, calls in the wrong order and
what is not cleaned up. It times nothing: no speed is shown by it. A replay computes nothing, unless the device
``replays``: then it computes once more what was captured, on the same memory, as a graph does.

``torch.cuda.graph`` and ``torch.cuda.stream`` are torch's own, so that what they do in the installed version is what
the tests meet; only what needs the driver is replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from twinkle_tune.strategy import on_cuda

TOTAL_BYTES = 1 << 30


@dataclass(eq=False)
class FakeStream:
    """A stream; the one that a thread begins with is the default one."""

    name: str = "side"
    device: torch.device = field(default_factory=lambda: torch.device("cuda:0"))


@dataclass
class FakeDevice:
    """One device.

    Attributes:
        ends_failed_captures: whether the allocator is told of the end of a failed capture, as torch does from 2.12 on.
        replays: whether a replay computes, on the CPU.
        stream: the current one.
        allocating_to: memory pools of captures under way.
        held_pools: memory pools that somebody holds.
        log: what was done, in order.
        broken: whether the capture under way became invalid.
        allocated_bytes, cached_bytes: what tensors hold of the allocator's memory, and what it keeps besides.
        peak_bytes: the most that was allocated since the peak was reset.
        elapsed_ms: what the next pairs of events tell.
    """

    ends_failed_captures: bool = False
    replays: bool = False
    stream: FakeStream = field(default_factory=lambda: FakeStream("default"))
    allocating_to: list[tuple[int, int]] = field(default_factory=list)
    held_pools: list[tuple[int, int]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    is_capturing: bool = False
    broken: bool = False
    elapsed_ms: float = 0.5
    pools: int = 0
    allocated_bytes: int = 0
    cached_bytes: int = 0
    peak_bytes: int = 0

    def allocate(self, count: int) -> None:
        """A tensor of so many bytes is made (and let go, if negative: the allocator keeps its memory)."""
        self.allocated_bytes += count
        self.cached_bytes = max(0, self.cached_bytes - count)
        self.peak_bytes = max(self.peak_bytes, self.allocated_bytes)

    def empty_cache(self) -> None:
        """Gives the kept memory back, unless the allocator believes that a capture is under way."""
        self.log.append("empty_cache")
        if not self.allocating_to:
            self.cached_bytes = 0

    def wait(self) -> None:
        """What a synchronisation does: within a capture it is an error, and the capture is lost."""
        self.log.append("synchronize")
        if self.is_capturing:
            self.broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is computed, with the memory that it reads and writes. A value that the host waits for is an error."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self._done: list[tuple[Any, Any, Any, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self._device.wait()
        found = func(*args, **(kwargs or {}))
        self._done.append((func, args, kwargs or {}, tree_leaves(found)))
        return found

    def replay(self) -> None:
        with torch.inference_mode():
            for func, args, kwargs, outputs in self._done:
                for mine, anew in zip(outputs, tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(mine, Tensor) and anew.data_ptr() != mine.data_ptr():
                        mine.copy_(anew)


def install(monkeypatch: pytest.MonkeyPatch, device: FakeDevice) -> None:
    """Replace what needs a driver, for one test."""

    class FakeGraph:
        def __init__(self) -> None:
            self.is_captured = False
            self.recorder = _Recorder(device) if device.replays else None

        def capture_begin(self, pool: tuple[int, int], **_: object) -> None:
            device.log.append("capture begins")
            device.is_capturing = True
            self.pool = pool
            device.allocating_to.append(pool)
            device.held_pools.append(pool)
            if self.recorder is not None:
                self.recorder.__enter__()  # type: ignore[no-untyped-call]

        def capture_end(self) -> None:
            if self.recorder is not None:
                self.recorder.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            device.is_capturing = False
            if device.broken:
                device.broken = False
                if device.ends_failed_captures:
                    device.allocating_to.remove(self.pool)
                    device.held_pools.remove(self.pool)
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            device.allocating_to.remove(self.pool)
            self.is_captured = True

        def replay(self) -> None:
            assert self.is_captured
            device.log.append("replay")
            if self.recorder is not None:
                self.recorder.replay()

    class FakeEvent:
        def __init__(self, **_: object) -> None:
            pass

        def record(self, _: object = None) -> None:
            device.log.append("event")

        def wait(self, _: object = None) -> None:
            device.log.append("stream waits")

        def synchronize(self) -> None:
            device.wait()

        def elapsed_time(self, _: FakeEvent) -> float:
            return device.elapsed_ms

    def new_pool() -> tuple[int, int]:
        device.pools += 1
        return 0, device.pools

    def end(_: int, pool: tuple[int, int]) -> None:
        if pool not in device.allocating_to:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        device.allocating_to.remove(pool)

    generator = SimpleNamespace(
        graphsafe_set_state=lambda _: device.log.append("generator gets a new state"),
        set_state=lambda _: device.log.append("generator gets its seed"),
    )
    properties = SimpleNamespace(L2_cache_size=4096)
    replaced: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "device": lambda _: _Nothing(),
        "synchronize": lambda _=None: device.wait(),
        "empty_cache": device.empty_cache,
        "memory_allocated": lambda _=None: device.allocated_bytes,
        "memory_reserved": lambda _=None: device.allocated_bytes + device.cached_bytes,
        "max_memory_allocated": lambda _=None: device.peak_bytes,
        "reset_peak_memory_stats": lambda _=None: setattr(device, "peak_bytes", device.allocated_bytes),
        "mem_get_info": lambda _=None: (TOTAL_BYTES - device.allocated_bytes - device.cached_bytes, TOTAL_BYTES),
        "set_per_process_memory_fraction": lambda share, _=None: device.log.append(f"limit {share:g}"),
        "Stream": FakeStream,
        "current_stream": lambda _=None: device.stream,
        "is_current_stream_capturing": lambda: device.is_capturing,
        "set_stream": lambda stream: setattr(device, "stream", stream),
        "CUDAGraph": FakeGraph,
        "Event": FakeEvent,
        "graph_pool_handle": new_pool,
        "get_rng_state": lambda _=None: torch.zeros(16, dtype=torch.uint8),
        "default_generators": (generator,),
        "get_device_properties": lambda _=None: properties,
        "_sleep": lambda cycles: device.log.append(f"sleep {cycles}"),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", FakeStream("torch's own"))
    # The stream context asks for the current device's number in another room.
    monkeypatch.setattr("torch.cuda._get_device_index", lambda *_: 0)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda _, pool: device.held_pools.remove(pool), raising=False)
    monkeypatch.setattr(torch, "Generator", _Generator)


def replaying(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A device whose replays compute; what is for CUDA devices is for the CPU then."""
    found = FakeDevice(replays=True)
    install(monkeypatch, found)
    monkeypatch.setattr(on_cuda, "KIND", "cpu")
    return found


class _Generator(torch.Generator):
    """Draws on the CPU, whatever its device."""

    def __new__(cls, device: object = None) -> _Generator:
        return super().__new__(cls)

    def graphsafe_get_state(self) -> Any:
        """Nothing."""


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass
