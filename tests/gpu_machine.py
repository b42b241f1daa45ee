"""What the first run asks of a CUDA machine: versions, the driver's word, and three rates that its limits rest on."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

from tests.gpu_part import NO_DEVICE_CODE
from tests.gpu_ready import what_is_missing, what_would_be_used

PACKAGES = (
    *("torch", "triton", "transformers", "optuna", "pydantic", "numpy"),
    *("kernels", "liger-kernel", "huggingface-hub", "nvidia-ml-py", "pytest", "pytest-xdist"),
)


def machine() -> int:
    """Print the facts, a line each; 1 where a package is missing that the run needs, 64 where there is no device."""
    print(f"python: {platform.python_version()}")
    for name in PACKAGES:
        try:
            print(f"{name}: {version(name)}")
        except PackageNotFoundError:
            print(f"{name}: not installed")
    if not torch.cuda.is_available():
        print(f"no CUDA device: torch {torch.__version__} finds none")
        return NO_DEVICE_CODE
    properties = torch.cuda.get_device_properties(0)
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    print(f"device: {properties.name}")
    print(f"memory: {free_bytes / 2**30:.1f} GiB free of {total_bytes / 2**30:.1f} GiB")
    print(f"state: {_state()}")
    print(f"a copy moves {_copy_rate():.0f} GB/s")
    print(f"a product of bfloat16 matrices does {_matmul_rate():.0f} TFLOP/s")
    print(f"the judge's sums over 16 million elements take {_tally_ms():.0f} ms")
    missing = what_is_missing()  # last: it imports much
    for told in (missing, what_would_be_used()):
        print(told, end="\n" if told else "")
    return 1 if missing else 0


def _state() -> str:
    from twinkle_tune.measure.state import device_state
    from twinkle_tune.outcome import DeviceState

    state = device_state("cuda")
    return "the driver tells nothing (is nvidia-ml-py installed?)" if state == DeviceState() else str(state)


def _seconds(work: Callable[[], object], times: int) -> float:
    """Of one of so many calls, after two that are not timed."""
    for _ in range(2):
        work()
    torch.cuda.synchronize()
    began_s = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began_s) / times


def _copy_rate() -> float:
    source = torch.zeros(2**28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source), 10) / 1e9


def _matmul_rate() -> float:
    size = 8192
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    return 2 * size**3 / _seconds(lambda: a @ a, 10) / 1e12


def _tally_ms() -> float:
    """One pass of the rule's sums, which a judge makes some fifty times for a large loss."""
    from twinkle_tune.parity.tally import gather

    reference = torch.randn(2**12, 2**12, device="cuda", dtype=torch.float64)
    baseline = reference.bfloat16()
    return 1e3 * _seconds(lambda: gather(reference, baseline, baseline, widening=1.0), 3)
