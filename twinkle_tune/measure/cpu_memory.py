"""Peak memory of a call on a CPU: torch's own account of its allocator, summed up.

While torch's profiler is on, its CPU allocator tells of each allocation and release of the thread, as bytes in their
order. The largest running sum is what the call took beyond what was there before. Forward, backward and compiled code
alike; not seen is what other allocators hand out (scratch space of BLAS libraries, what a C++ kernel takes for itself)
and what another thread allocates. The release of what was allocated before is no part of it.

The profiler that keeps its events to itself is used, not the newer one, which writes to the error stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

# Bound here and now, as the clock's: code of a candidate that replaces them changes nothing any more.
_autograd: Any = torch._C._autograd
_enable = getattr(_autograd, "_enable_profiler_legacy", None)
_disable = getattr(_autograd, "_disable_profiler_legacy", None)
_enabled = _autograd._profiler_enabled


def peak_bytes(call: Callable[[], object]) -> int | None:
    """The most memory that one call takes beyond what was taken before, in bytes.

    What the call returns is let go before the end. It is timed by nobody: each of its operations takes some
    microseconds longer.

    Returns:
        None where this torch does not tell, or is under a profiler already; the call is not made then.
    """
    if _enable is None or _disable is None or _enabled():
        return None
    _enable(_config())
    try:
        call()
    finally:
        events = _disable()
    now_bytes = most_bytes = 0
    for thread in events:
        for event in thread:
            if event.kind() == "memory_alloc":
                # Never below nothing: a block from before whose place torch remembers may be told as released.
                now_bytes = max(0, now_bytes + event.cpu_memory_usage())
                most_bytes = max(most_bytes, now_bytes)
    return int(most_bytes)


def _config() -> Any:
    """Memory, without shapes, stacks, operation counts or modules."""
    experimental, autograd = torch._C._profiler._ExperimentalConfig(), cast("Any", torch.autograd)
    return autograd.ProfilerConfig(autograd.ProfilerState.CPU, False, True, False, False, False, experimental)
