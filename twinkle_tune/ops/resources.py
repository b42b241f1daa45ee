"""What a compiled kernel needs of a multiprocessor, and whether that is worth a launch.

Limits are those of the table "Technical Specifications per Compute Capability" in NVIDIA's CUDA C++ Programming
Guide; the occupancy is that of its calculator: warps that fit together over warps that a multiprocessor holds.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinkle_tune.errors import SourceError

_REGISTERS = 65_536
"""Of a multiprocessor, on every architecture here; 32 bits each."""
_RESERVED_BYTES = 1024
"""Shared memory that the system keeps in each block, from sm_80 on."""
TOLERATED_SPILL_BYTES = 64
"""Up to so many bytes of a thread spilled may be worth what they buy; a time tells."""
HOPELESS_OCCUPANCY = 0.05
"""Under this share of its warps a multiprocessor cannot hide the memory's latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one architecture: shared memory of a block and of a multiprocessor in bytes, warps and blocks it holds."""

    block_bytes: int
    shared_bytes: int
    warps: int
    blocks: int


_LIMITS = {
    80: Limits(block_bytes=166_912, shared_bytes=167_936, warps=64, blocks=32),
    86: Limits(block_bytes=101_376, shared_bytes=102_400, warps=48, blocks=16),
    87: Limits(block_bytes=166_912, shared_bytes=167_936, warps=48, blocks=16),
    89: Limits(block_bytes=101_376, shared_bytes=102_400, warps=48, blocks=24),
    90: Limits(block_bytes=232_448, shared_bytes=233_472, warps=64, blocks=32),
    100: Limits(block_bytes=232_448, shared_bytes=233_472, warps=64, blocks=32),
    103: Limits(block_bytes=232_448, shared_bytes=233_472, warps=64, blocks=32),
    120: Limits(block_bytes=101_376, shared_bytes=102_400, warps=48, blocks=24),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one kernel needs.

    Attributes:
        kernel: its function's name.
        architecture: compute capability that it was compiled for, 90 for 9.0.
        registers: of a thread.
        spilled_bytes: of a thread's local memory: values that found no register.
        shared_bytes: of a block.
        warps: of a block.
        occupancy: share of a multiprocessor's warps that are there at once (0 to 1), as registers, shared memory and
            blocks allow; 0.0 where not one block fits.
    """

    kernel: str
    architecture: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    warps: int
    occupancy: float

    @property
    def unlaunchable(self) -> str:
        """Why it cannot be launched; "" if it can."""
        limit = limits(self.architecture).block_bytes
        if self.shared_bytes > limit:
            return (
                f"{self.kernel}: {self.shared_bytes} bytes of shared memory, over the {limit} that a block may have "
                f"on sm_{self.architecture}"
            )
        if not self.occupancy:
            return f"{self.kernel}: {self.registers} registers for {self.warps} warps fit no multiprocessor"
        return ""

    @property
    def doubtful(self) -> str:
        """Why it is hardly worth a launch; "" if it is. Not certain, so it keeps a config from being tried, no more."""
        if self.spilled_bytes > TOLERATED_SPILL_BYTES:
            return f"{self.kernel}: spills {self.spilled_bytes} bytes"
        if self.occupancy < HOPELESS_OCCUPANCY:
            return f"{self.kernel}: occupancy hopeless ({self.occupancy:.1%})"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """The kernels of a call, each once."""

    kernels: tuple[Resources, ...]

    @property
    def unlaunchable(self) -> str:
        """Why it cannot be launched; "" if it can."""
        return next((kernel.unlaunchable for kernel in self.kernels if kernel.unlaunchable), "")

    @property
    def doubtful(self) -> str:
        """Why it is hardly worth a launch; "" if it is."""
        return next((kernel.doubtful for kernel in self.kernels if kernel.doubtful), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """A call whose kernels cannot be compiled, and why."""

    reason: str


def limits(architecture: int) -> Limits:
    """Of an architecture; of one that is not known, those of the smallest."""
    return _LIMITS.get(architecture, _LIMITS[120])


def occupancy(architecture: int, *, registers: int, shared_bytes: int, warps: int) -> float:
    """Share of a multiprocessor's warps that are there at once; 0.0 where not one block fits.

    Registers are given to warps in units of 256, shared memory in units of 128 bytes.
    """
    own = limits(architecture)
    a_warp = -(-max(registers, 1) * 32 // 256) * 256
    by_registers = _REGISTERS // a_warp // warps
    by_shared = own.shared_bytes // (-(-(shared_bytes + _RESERVED_BYTES) // 128) * 128)
    return min(by_registers, by_shared, own.warps // warps, own.blocks) * warps / own.warps


def read_resources(compiled: Any, architecture: int) -> Resources:
    """What a kernel compiled by Triton needs, by the ``cuobjdump`` that comes with Triton.

    Raises:
        SourceError: that program cannot be run, or says something else.
    """
    registers, stack_bytes = _usage(compiled.asm["cubin"])
    # A stack may be there without a spill; asking the assembler takes longer, so only then.
    spilled_bytes = _spilled(compiled.asm["ptx"], architecture) if stack_bytes else 0
    warps, shared_bytes = compiled.metadata.num_warps, compiled.metadata.shared
    return Resources(
        kernel=compiled.metadata.name,
        architecture=architecture,
        registers=registers,
        spilled_bytes=spilled_bytes,
        shared_bytes=shared_bytes,
        warps=warps,
        occupancy=occupancy(architecture, registers=registers, shared_bytes=shared_bytes, warps=warps),
    )


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(path)]
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        except (OSError, subprocess.SubprocessError) as error:
            raise SourceError(f"static check: {command[0]} failed ({error}); reinstall triton") from error
    registers, stack = (re.search(rf"\b{name}:(\d+)", said) for name in ("REG", "STACK"))
    if registers is None or stack is None:
        raise SourceError(f"static check: cuobjdump said {said[-200:]!r}, expected REG: and STACK:; reinstall triton")
    return int(registers[1]), int(stack[1])


def _spilled(ptx: str, architecture: int) -> int:
    """Bytes of a thread that are stored to local memory for want of a register, as Triton's ptxas says."""
    from triton.backends.nvidia.compiler import get_ptxas

    target = re.search(r"\.target\s+(\w+)", ptx)
    assert target is not None, "PTX names its target"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx, encoding="utf-8")
        command = [get_ptxas(architecture).path, "-v", f"--gpu-name={target[1]}", str(path), "-o", f"{path}.cubin"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr
        except (OSError, subprocess.SubprocessError) as error:
            raise SourceError(f"static check: {command[0]} failed ({error}); reinstall triton") from error
    return sum(int(number) for number in re.findall(r"(\d+) bytes spill stores", said))
