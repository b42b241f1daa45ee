"""Liger's kernels as right implementations: ``python -m tests.parity.zoo.liger OP SEEDS`` with TRITON_INTERPRET=1.

A process of its own, for Triton reads the flag when a kernel is decorated. The interpreter keeps bfloat16 as bare
bits: what is computed with them, or rounded to them, is put right here. It shows that kernels are right, no speed.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from tests.parity.zoo.all import zoo_judge
from tests.parity.zoo.wrong import ALL
from twinkle_tune.catalog import liger
from twinkle_tune.parity.verdict import Pass, Reject


def _mlp(multiply: Callable[[Any, Tensor, Tensor], Any]) -> Callable[[Any, Tensor], Any]:
    return lambda self, x: self.down_proj(multiply(None, self.gate_proj(x), self.up_proj(x)))


RIGHT: dict[str, Callable[..., Any]] = {
    "rms_norm": liger.rms_norm("weight", "variance_epsilon", 0.0, "llama"),
    "gemma_norm": liger.rms_norm("weight", "eps", 1.0, "gemma"),
    "layer_norm": liger.layer_norm("weight", "bias", "eps"),
    "mlp": _mlp(liger.silu_and_multiply),
    "gemma_mlp": _mlp(liger.gelu_tanh_and_multiply),
    "silu_mul": lambda gate, up: liger.silu_and_multiply(None, gate, up),
    "rotary": liger.rotate,
    "cross_entropy": lambda logits, target: liger.cross_entropy(logits.float(), target, -100, "mean"),
}
WRONG: dict[str, Callable[..., Any]] = {
    "rms_norm": liger.rms_norm("weight", "variance_epsilon", 1.0, "llama"),
    "gemma_norm": liger.rms_norm("weight", "eps", 0.0, "gemma"),
    "mlp": _mlp(liger.gelu_tanh_and_multiply),
    "gemma_mlp": _mlp(liger.silu_and_multiply),
    "rotary": lambda q, k, cos, sin: liger.rotate(q, k, cos, -sin),
    "cross_entropy": lambda logits, target: liger.cross_entropy(logits.float(), target, -100, "sum"),
}
"""The same kernels, told the wrong thing: an offset, an activation, a sign, a sum for a mean."""


def exact_bfloat16() -> None:
    """Let the interpreter compute with bfloat16 through float32, and round to the nearest, ties to even."""
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    handle: Any = interpreter.TensorHandle

    def widened(value: Any) -> Any:
        if not isinstance(value, handle) or value.get_element_ty() != tl.bfloat16:
            return value
        return handle((value.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def rounded(data: Any) -> Any:
        bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32).astype(np.uint64)
        return np.where(np.isnan(data), 0x7FC0, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

    def through_float32(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def called(self: Any, *args: Any) -> Any:
            wide = [widened(arg) for arg in args]
            result = method(self, *wide)
            is_low = any(w is not a for w, a in zip(wide, args, strict=True))
            if is_low and result.get_element_ty() == tl.float32:
                return handle(rounded(result.data), tl.bfloat16)
            return result

        return called

    for name in ("binary_op", "unary_op", "ternary_op"):
        setattr(builder, name, through_float32(getattr(builder, name)))
    convert: Any = interpreter._convert_float

    def converted(data: Any, given: Any, wanted: Any, mode: Any) -> Any:
        low = given == tl.float32 and wanted == tl.bfloat16
        return rounded(data) if low else convert(data, given, wanted, mode)

    interpreter._convert_float = converted


def typed_numbers() -> None:
    """Numbers that a kernel is given are float32 values to it, as they are on a GPU."""
    from triton.runtime import interpreter

    convert: Any = interpreter._implicit_cvt
    handle: Any = interpreter.TensorHandle

    def converted(value: Any) -> Any:
        if not isinstance(value, float):
            return convert(value)
        return tl.tensor(handle(np.array([value], dtype=np.float32), tl.float32), tl.float32)

    interpreter._implicit_cvt = converted


@triton.jit
def rsqrt(x):  # type: ignore[no-untyped-def]
    """As the GPU library's, which the interpreter lacks."""
    return 1.0 / tl.sqrt(x)


@triton.jit
def tanh(x):  # type: ignore[no-untyped-def]
    """The same."""
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


def unexpected(op: str, dtype: torch.dtype, trains: bool, seed: int) -> list[str]:
    """What is not as it should be; the wrong ones are tried forward alone."""
    judge = zoo_judge(op, dtype, trains, seed)
    where = f"{op}, {dtype}, trains={trains}, seed {seed}"
    right = judge.judge(RIGHT[op])
    found = [] if isinstance(right, Pass) else [f"{where}: {right}"]
    if op in WRONG and not trains and not isinstance(judge.judge(WRONG[op]), Reject):
        found.append(f"{where}: told the wrong thing, and not refused")
    return found


def main(op: str, seeds: int) -> int:
    """Print what is not as it should be; 1 if anything."""
    found = [f for s in range(seeds) for d in ALL for trains in (False, True) for f in unexpected(op, d, trains, s)]
    print("\n".join(found) or f"{op}: as it should be, {seeds} seeds")
    return int(bool(found))


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1: there may be no GPU"
    exact_bfloat16()
    typed_numbers()
    libdevice.rsqrt, libdevice.tanh = rsqrt, tanh  # before a kernel's module takes them from there
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
