"""Compile an op's kernels without launching them, for this GPU or for one that is not there, and read what they need.

An op is run on tensors without memory while every launch of a kernel is turned into a compilation. Triton is given a
driver that can only say which GPU it pretends to be, and has its own back afterwards. Nothing is launched, so nothing
is learnt of time: only what cannot run, or hardly can.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.errors import ConfigError, SourceError, in_a_line, is_by_chance
from twinkle_tune.ops import launch
from twinkle_tune.ops.op import Op
from twinkle_tune.ops.resources import Compiled, Resources, Unfit, read_resources
from twinkle_tune.ops.space import Config, Dims

ARCHITECTURES = (80, 89, 90, 100, 120)
"""Compute capabilities that the shipped defaults are checked for: A100, L4 and RTX 40, H100, B200, RTX 50."""


def compile_op(
    op: Op, dims: Dims, dtype: torch.dtype, config: Config | None, *, architecture: int, variant: str = ""
) -> Compiled | Unfit:
    """Compile the forward and the backward kernels of one call.

    Args:
        op: whose kernels.
        dims: sizes of the call; no memory is taken, whatever they are.
        dtype: of the made-up inputs.
        config: None for the op's default on that architecture.
        architecture: compute capability, 90 for 9.0.
        variant: by name.

    Returns:
        What each kernel needs; or why they cannot be compiled.

    Raises:
        SourceError: Triton is not installed, or its interpreter is on, which compiles nothing.
        ConfigError: the op has no such variant.
    """
    return compile_ops([(op, dims, dtype, config, variant)], architecture=architecture)[0]


_MORE_TRIES = 2
_PARSING = threading.Lock()
Job = tuple[Op, Dims, torch.dtype, Config | None, str]
"""Op, sizes, dtype, config or None for the default, variant: one call to be compiled."""


def compile_ops(jobs: Sequence[Job], *, architecture: int, workers: int | None = None) -> list[Compiled | Unfit]:
    """As :func:`compile_op`, for many calls and on several processor cores; in the order of ``jobs``.

    A call that failed for a reason of the moment (:func:`twinkle_tune.errors.is_by_chance`) is compiled again, alone.
    Not while this process launches kernels in another thread: they would be compiled instead.
    """
    _require()
    with _pretending(architecture), _one_parse_at_a_time(), launch.pretend(architecture):
        made = _compile_all(jobs, architecture, workers or usable_cores())
        for _ in range(_MORE_TRIES):
            for index, each in enumerate(made):
                if isinstance(each, Exception) and is_by_chance(each):
                    made[index] = _compile_all([jobs[index]], architecture, 1)[0]
    return [_unfit(each) if isinstance(each, Exception) else each for each in made]


def usable_cores() -> int:
    """Processor cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compile_all(jobs: Sequence[Job], architecture: int, workers: int) -> list[Compiled | Exception]:
    """What each call's kernels need, or the error that its compilation raised."""
    with ThreadPoolExecutor(workers) as executor:
        kernels = [_launches(job, executor) for job in jobs]
        return [each if isinstance(each, Exception) else _resources(each, architecture) for each in kernels]


def _unfit(error: Exception) -> Unfit:
    return Unfit(reason=f"cannot be compiled: {in_a_line(error, 300)}")


def _launches(job: Job, executor: Executor) -> list[Any] | Exception:
    """The kernels that a call launches, being compiled by the executor; or why they cannot be."""
    op, dims, dtype, config, variant = job
    if variant not in op.variants:
        raise ConfigError(f"variant: got {variant!r} of {op.name}, expected one of {', '.join(map(repr, op.variants))}")
    from torch._subclasses.fake_tensor import FakeTensorMode
    from triton.runtime._async_compile import AsyncCompileMode, active_mode

    found: list[Any] = []
    compiling = active_mode.set(AsyncCompileMode(executor))
    try:
        with _compiling_launches(found), FakeTensorMode(), torch.no_grad():
            inputs = op.inputs(dims, dtype, "cpu", 0, variant)
            op.launch(*inputs, config=config, **op.variants[variant])
    except Exception as error:
        # Triton raises what it likes for code that it cannot compile.
        return error
    finally:
        active_mode.reset(compiling)
    return found


def _resources(kernels: Sequence[Any], architecture: int) -> Compiled | Exception:
    found: dict[str, Resources] = {}
    for kernel in kernels:
        try:
            compiled = kernel.result() if hasattr(kernel, "result") else kernel
        except Exception as error:
            return error
        if compiled.hash not in found:
            found[compiled.hash] = read_resources(compiled, architecture)
    return Compiled(kernels=tuple(found.values()))


@contextmanager
def _compiling_launches(found: list[Any]) -> Iterator[None]:
    """Inside, ``kernel[grid](...)`` compiles the kernel and adds it to ``found``."""
    from triton.runtime.jit import KernelInterface

    def getitem(kernel: Any, grid: Any) -> Callable[..., None]:
        def compiled(*args: Any, **kwargs: Any) -> None:
            named = {name: _mock(each) for name, each in kwargs.items()}
            found.append(kernel.run(*map(_mock, args), grid=grid, warmup=True, **named))

        return compiled

    launches = KernelInterface.__getitem__
    KernelInterface.__getitem__ = getitem
    try:
        yield
    finally:
        KernelInterface.__getitem__ = launches


@contextmanager
def _one_parse_at_a_time() -> Iterator[None]:
    """Inside, threads that compile take turns where a kernel's source is parsed; all else goes on side by side.

    Python before 3.11.8 and 3.12.2 counts how deep it is in a tree once for all threads, and raises where that count is
    disturbed.
    """
    from triton.runtime.jit import JITFunction

    owner = next(each for each in JITFunction.__mro__ if "parse" in vars(each))
    parse = owner.parse

    def parse_alone(kernel: Any) -> Any:
        with _PARSING:
            return parse(kernel)

    owner.parse = parse_alone
    try:
        yield
    finally:
        owner.parse = parse


def _mock(value: Any) -> Any:
    """A tensor as its dtype alone: aligned to 16 bytes, as fresh memory is."""
    from triton.runtime.jit import MockTensor

    return MockTensor(value.dtype, tuple(value.shape)) if isinstance(value, Tensor) else value


def _require() -> None:
    if launch.missing():
        raise SourceError(f"static check: {launch.missing()}")
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise SourceError(
            "static check: got TRITON_INTERPRET=1, under which nothing is compiled, expected it unset; "
            "unset it and start again"
        )


@contextmanager
def _pretending(architecture: int) -> Iterator[None]:
    from triton.runtime import driver

    before = driver._active
    driver.set_active(_driver(architecture))
    try:
        yield
    finally:
        driver._active = before


@cache
def _driver(architecture: int) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    class CompileOnly(DriverBase):  # type: ignore[misc]
        """Knows its target and nothing else. One a GPU: kernels are cached by what it calls its device."""

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", architecture, 32)

        def get_current_device(self) -> str:
            return f"absent sm_{architecture}"

        def get_current_stream(self, device: object) -> int:
            return 0

        @classmethod
        def is_active(cls) -> bool:
            return False

        def map_python_to_cpp_type(self, ty: str) -> str:
            raise NotImplementedError("it only compiles")

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def get_benchmarker(self) -> Any:
            raise NotImplementedError("it only compiles")

    return CompileOnly()
