"""Where and how our kernels run: on which tensors, for which architecture, over which rows."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from twinkle_tune.errors import ConfigError, SourceError
from twinkle_tune.ops.space import Config

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What the kernels take; they compute in float32. Other dtypes go the way of the plain formula."""

# Of the data sheets: how many programs run at once decides how many a persistent kernel starts.
_MULTIPROCESSORS = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148, 103: 148, 120: 170}
_USUAL_ARCHITECTURE = 90
# In the interpreter programs run one after another: few of them, so that each has several blocks of rows to do.
_INTERPRETED = 4

_pretended: list[int] = []


def missing() -> str:
    """Why kernels cannot be run here; "" if Triton is installed."""
    return "" if importlib.util.find_spec("triton") else "triton is not installed; pip install triton"


def kernels_run(*tensors: Tensor | None) -> bool:
    """Whether a call with these tensors runs kernels: on CUDA, or in Triton's interpreter; else the plain formula.

    Raises:
        SourceError: the tensors are on CUDA and Triton is not installed.
    """
    given = [tensor for tensor in tensors if tensor is not None and tensor.is_floating_point()]
    if not given or any(tensor.dtype not in DTYPES for tensor in given):
        return False
    if given[0].is_cuda:
        return _can_run()
    return os.environ.get("TRITON_INTERPRET") == "1" and given[0].device.type == "cpu"


@cache
def _can_run() -> bool:
    if missing():
        raise SourceError(f"kernel: {missing()}, or leave twinkle_tune's own ops out on this device")
    return True


@cache
def kernels(op: str) -> ModuleType:
    """The module with an op's Triton kernels, imported when they are first needed.

    Raises:
        SourceError: Triton is not installed.
    """
    _can_run()
    return importlib.import_module(f"twinkle_tune.ops.{op}.kernel")


def on(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's device the one that Triton launches on."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(tensor.device)


def at_most_registers(count: int) -> dict[str, int]:
    """The option of a launch by which a thread may have so many registers; nothing for AMD's GPUs, where there is none.

    NVIDIA's assembler then goes by this alone, not by how many blocks it would like on a multiprocessor.
    """
    return {} if torch.version.hip else {"maxnreg": count}


def architecture(device: torch.device) -> int:
    """Compute capability of a CUDA device (90 for 9.0); for another device the pretended one, or 90."""
    if _pretended:
        return _pretended[-1]
    return _capability(device.index or 0) if device.type == "cuda" else _USUAL_ARCHITECTURE


def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors a CUDA device has, or one of the pretended architecture; 4 where neither is given."""
    if _pretended:
        return _MULTIPROCESSORS.get(_pretended[-1], 108)
    return _counted(device.index or 0) if device.type == "cuda" else _INTERPRETED


@contextmanager
def pretend(capability: int) -> Iterator[None]:
    """Inside, defaults are those of this architecture, whatever the device: to compile for a GPU that is not here."""
    _pretended.append(capability)
    try:
        yield
    finally:
        _pretended.pop()


@cache
def _capability(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return major * 10 + minor


@cache
def _counted(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def named(config: list[int] | None, names: tuple[str, ...], default: Config) -> Config:
    """A config that came as a list of values, by name; ``default`` for None.

    Raises:
        ConfigError: there are more or fewer values than names.
    """
    if config is None:
        return default
    if len(config) != len(names):
        raise ConfigError(f"config: got {len(config)} values, expected those of {', '.join(names)}; tune the op again")
    return dict(zip(names, config, strict=True))


def values(config: Config | None, names: tuple[str, ...]) -> list[int] | None:
    """A config as the list of values that goes through torch's dispatcher.

    Raises:
        ConfigError: a parameter is missing or unknown.
    """
    if config is None:
        return None
    if sorted(config) != sorted(names):
        raise ConfigError(
            f"config: got the parameters {sorted(config)}, expected {sorted(names)}; name each once, or tune again"
        )
    return [config[name] for name in names]


def next_power_of_2(size: int) -> int:
    """The smallest power of two that is not below ``size`` (at least 1)."""
    return 1 << max(size - 1, 0).bit_length()


def as_rows(x: Tensor) -> Tensor:
    """(..., D) as (rows, D) whose rows are dense, each from any distance: a view where strides allow, else one copy."""
    flat = x.reshape(-1, x.shape[-1]) if x.shape[-1] else x.reshape(math.prod(x.shape[:-1]), 0)
    return flat if flat.stride(-1) == 1 or flat.shape[-1] == 1 else flat.contiguous()
