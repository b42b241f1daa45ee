"""Where the ops are timed: sizes of models that people run, and inputs of those sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.ops.op import Op
from twinkle_tune.ops.space import Dims

ROWS = (1, 32, 2048, 16384)
QUICK_ROWS = (1, 32)
DTYPE = torch.bfloat16
VARIANTS: Mapping[str, str] = {"gelu_and_mul": "tanh"}
"""The variant that is timed where it is not the plain one: gelu by a tanh is Gemma's, and the only one of Liger's."""

_NAMES = ("Qwen3-0.6B", "Llama-3.2-1B", "Mistral-7B", "Llama-3.1-70B")
_BASE_ROWS = 61
"""Rows that are drawn at random; more rows repeat them. No other size here is 61, so it tells which dimension they are.

Drawn on the CPU, as the ops' inputs are, the logits of 16,384 rows alone would take a minute.
"""
_BYTES_AN_ELEMENT = 24
"""What the plain formula of a loss, forward and backward, holds for each logit, most of it in float32."""
_TINY = 128
_SEED = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """The sizes of a call but its rows, and of which model they are."""

    model: str
    sizes: Dims


def _widths(*sizes: Mapping[str, int], names: tuple[str, ...] = _NAMES) -> tuple[Width, ...]:
    return tuple(Width(model=name, sizes=each) for name, each in zip(names, sizes, strict=True))


_HIDDEN = _widths(*({"width": width} for width in (1024, 2048, 4096, 8192)))
_INNER = _widths(*({"width": width} for width in (3072, 8192, 14336, 28672)))
_HEADS = _widths(
    *(
        {"heads": heads, "kv_heads": 8, "width": width, "turned": width}
        for heads, width in ((16, 128), (32, 64), (32, 128), (64, 128))
    )
)
_VOCABULARIES = _widths(
    *({"classes": classes} for classes in (32000, 128256, 151936, 262144)),
    names=("Mistral-7B", "Llama-3.2-1B", "Qwen3-0.6B", "Gemma-3-1B"),
)
_LAST_LAYERS = _widths(
    *(
        {"width": width, "classes": classes}
        for width, classes in ((4096, 32000), (2048, 128256), (1024, 151936), (1152, 262144))
    ),
    names=("Mistral-7B", "Llama-3.2-1B", "Qwen3-0.6B", "Gemma-3-1B"),
)
_RAISING = _widths(
    *({"width": width, "out": 4 * width} for width in (768, 1024, 2048, 4096)),
    names=("BERT-base", "GPT-2-medium", "Pythia-1B", "OPT-6.7B"),
)
_ATTENTIONS = _widths(
    *(
        {"keys": 2048, "batch": 1, "heads": heads, "kv_heads": 8, "width": width}
        for heads, width in ((16, 128), (32, 64), (32, 128), (64, 128))
    )
)

WIDTHS: Mapping[str, tuple[Width, ...]] = {
    "rms_norm": _HIDDEN,
    "fused_add_rms_norm": _HIDDEN,
    "layer_norm": _HIDDEN,
    "silu_and_mul": _INNER,
    "gelu_and_mul": _INNER,
    "rope": _HEADS,
    "cross_entropy": _VOCABULARIES,
    "fused_linear_cross_entropy": _LAST_LAYERS,
    "linear_act": _RAISING,
    "attention": _ATTENTIONS,
}


def widths(op: Op, device: str, *, quick: bool) -> tuple[Width, ...]:
    """The widths of an op: quick only the first, and no size above 128 where that is on a CPU."""
    found = WIDTHS[op.name][: 1 if quick else None]
    if device != "cpu":
        return found
    tiny = ({name: min(size, _TINY) for name, size in each.sizes.items()} for each in found)
    return tuple(Width(model="tiny", sizes=sizes) for sizes in tiny)


def dims_of(op: Op, width: Width, rows: int) -> dict[str, int]:
    """All sizes of a call, in the op's order."""
    return {name: rows if name == op.dims[0] else width.sizes[name] for name in op.dims}


def rows_that_fit(width: Width, rows: int, free_bytes: int | None) -> int:
    """The rows asked for, halved until what is made of the logits of a loss fits into 90% of the free memory."""
    classes = width.sizes.get("classes", 0)
    while free_bytes is not None and rows > 1 and rows * classes * _BYTES_AN_ELEMENT > 0.9 * free_bytes:
        rows //= 2
    return rows


def drawn(op: Op, width: Width, device: str) -> tuple[Any, ...]:
    """Inputs of 61 rows, from which those of any number are made."""
    dims = dims_of(op, width, _BASE_ROWS)
    return op.inputs(dims, DTYPE, device, _SEED, VARIANTS.get(op.name, ""))


@torch.no_grad()
def with_rows(inputs: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    """Inputs of so many rows, in the same order of dimensions in memory; what has no rows is the same tensor."""
    return tuple(_with_rows(x, rows) if isinstance(x, Tensor) else x for x in inputs)


def _with_rows(x: Tensor, rows: int) -> Tensor:
    if _BASE_ROWS not in x.shape:
        return x
    order = sorted(range(x.dim()), key=lambda dim: x.stride()[dim], reverse=True)
    laid = x.permute(order)
    index = torch.arange(rows, device=x.device) % _BASE_ROWS
    laid = laid.index_select(laid.shape.index(_BASE_ROWS), index)
    back = [order.index(dim) for dim in range(x.dim())]
    return laid.permute(back).requires_grad_(x.requires_grad)
