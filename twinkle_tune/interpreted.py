"""Whether code runs in Triton's interpreter: there it is right or wrong as on a device, and its speed says nothing."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_INTERPRETER = "triton.runtime.interpreter"


class Ran:
    """How many kernels the interpreter ran so far."""

    kernels = 0


@contextmanager
def interpreted() -> Iterator[Ran]:
    """Count the kernels that Triton's interpreter runs inside the block, on any thread.

    Where the interpreter was never imported nothing can run in it: nothing is imported here.
    """
    ran = Ran()
    executor = getattr(sys.modules.get(_INTERPRETER), "GridExecutor", None)
    if executor is None:
        yield ran
        return
    call: Callable[..., Any] = executor.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        ran.kernels += 1
        return call(self, *args, **kwargs)

    executor.__call__ = counted
    try:
        yield ran
    finally:
        executor.__call__ = call


@contextmanager
def rounded_as_on_devices() -> Iterator[None]:
    """Inside the block Triton's interpreter rounds float32 to the nearest bfloat16 (ties to even), as GPUs do.

    By itself it cuts the last bits off (3.6 to 3.9), which doubles the error of each number that a kernel stores: a
    right kernel would be refused for it. And of two bfloat16 matrices it multiplies the bits, read as integers: here
    the numbers. Where the interpreter was neither asked for nor imported nothing is done.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        # A kernel that is imported inside the block would bring the interpreter too late.
        with suppress(ImportError):
            importlib.import_module(_INTERPRETER)
    interpreter: Any = sys.modules.get(_INTERPRETER)
    cut_off = getattr(interpreter, "_convert_float", None)
    if cut_off is None:
        yield
        return
    builder = interpreter.InterpreterBuilder
    multiply = builder.create_dot
    interpreter._convert_float, builder.create_dot = (
        _rounding(interpreter, cut_off),
        _multiplying(interpreter, multiply),
    )
    try:
        yield
    finally:
        interpreter._convert_float, builder.create_dot = cut_off, multiply


def _rounding(interpreter: Any, cut_off: Callable[..., Any]) -> Callable[..., Any]:
    np, tl = interpreter.np, interpreter.tl  # as it imported them: nothing is imported here

    def convert(values: Any, dtype: Any, wanted_dtype: Any, rounding_mode: Any) -> Any:
        if dtype != tl.float32 or wanted_dtype != tl.bfloat16:
            return cut_off(values, dtype, wanted_dtype, rounding_mode)
        bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # Rounding would carry a NaN's last bits into its sign.
        return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)

    return convert


def _multiplying(interpreter: Any, multiply: Callable[..., Any]) -> Callable[..., Any]:
    np, tl = interpreter.np, interpreter.tl

    def as_numbers(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        numbers = (handle.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(numbers, tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return multiply(self, as_numbers(a), as_numbers(b), *rest)

    return create_dot
