"""Facts of the machine and its libraries that a timing depends on, and their fingerprint."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from twinkle_tune.device import torch_type
from twinkle_tune.workload import digest_of

ENVIRONMENT_PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "kernels",
    "liger-kernel",
    "huggingface_hub",
    "optuna",
)
"""Packages that ``twinkle-tune env`` lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What decides how fast a kernel is.

    Attributes:
        device: the device type ("cpu", "cuda").
        device_name: "NVIDIA H100 80GB HBM3", or the processor's model.
        capability: "9.0" for CUDA; "" elsewhere.
        memory_bytes: the device's memory; 0 for cpu.
        threads: threads that torch uses on the CPU.
        torch, triton: versions; "" where not installed.
        runtime: CUDA or ROCm version that torch was built for; "" for a CPU build.
        fp_fusion: TRITON_DEFAULT_FP_FUSION as set, "default" if not: Triton's default changed in 3.10.
        load: the machine's load average over the last minute when this was taken; 0.0 where it does not tell.
        processors: logical processors of the machine.
        python, system: for the reader, as are load and processors; no part of the fingerprint.
    """

    device: str
    device_name: str
    capability: str
    memory_bytes: int
    threads: int
    torch: str
    triton: str
    runtime: str
    fp_fusion: str
    python: str
    system: str
    load: float = 0.0
    processors: int = 0

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal where timings may be compared."""
        return digest_of(self.facts)

    @property
    def facts(self) -> dict[str, str | int]:
        """The fields behind the fingerprint. Threads matter on the CPU alone, a GPU's memory not at all."""
        hidden = {"python", "system", "memory_bytes", "load", "processors"} | (
            set() if self.device == "cpu" else {"threads"}
        )
        return {name: value for name, value in asdict(self).items() if name not in hidden}


def changes(then: Environment, now: Environment) -> list[str]:
    """What differs between two environments, a line each ("torch: 2.12.0 then, 2.13.0 now"); empty if nothing."""
    before, after = then.facts, now.facts
    return [
        f"{name}: {before.get(name, '(nothing)')} then, {after.get(name, '(nothing)')} now"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def current_environment(device: str) -> Environment:
    """The environment of this process for ``device``."""
    import torch

    name, capability, memory_bytes = _processor(), "", 0
    if torch_type(device) == "cuda":
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        name, memory_bytes = properties.name, properties.total_memory
        capability = f"{properties.major}.{properties.minor}"
    elif device != "cpu":
        name = device
    return Environment(
        device=device,
        device_name=name,
        capability=capability,
        memory_bytes=memory_bytes,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        triton=package_version("triton"),
        runtime=torch.version.cuda or torch.version.hip or "",
        fp_fusion=os.environ.get("TRITON_DEFAULT_FP_FUSION", "default"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0,
        processors=os.cpu_count() or 0,
    )


def package_version(name: str) -> str:
    """The installed version of a package; "" if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


@lru_cache(maxsize=1)
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
