"""Who is timed against whom: an op as a model writes it, torch.compile of that, Liger's function, and ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.bench.op_points import VARIANTS
from twinkle_tune.catalog.liger import missing
from twinkle_tune.errors import in_a_line
from twinkle_tune.ops.op import Op
from twinkle_tune.ops.space import Config

EAGER, COMPILED, LIGER, OURS, TUNED = "eager", "torch.compile", "Liger", "ours", "ours tuned"

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A way of computing an op.

    Attributes:
        name: as in the table.
        function: takes the op's inputs.
        writes_over: whether it writes over its inputs or incoming gradients, and so gets copies of its own.
    """

    name: str
    function: Function
    writes_over: bool = False


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def _rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return _rotated(q, cos, sin), _rotated(k, cos, sin)


# Where models write it with fewer operations than the op's formula, which is exact rather than fast.
_AS_MODELS_DO: Mapping[str, Function] = {
    "layer_norm": lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5),
    "silu_and_mul": lambda gate, up: F.silu(gate) * up,
    "gelu_and_mul": lambda gate, up: F.gelu(gate, approximate="tanh") * up,
    "rope": _rope,
    "attention": lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
}

# File and class in liger_kernel.ops; what it takes behind the tensors, as its own layers pass it; whether it writes
# over what it is given.
_LIGER: Mapping[str, tuple[str, str, tuple[Any, ...], bool]] = {
    "rms_norm": ("rms_norm", "LigerRMSNormFunction", (1e-6, 0.0, "llama", True), True),
    "fused_add_rms_norm": ("fused_add_rms_norm", "LigerFusedAddRMSNormFunction", (1e-6, 0.0, "llama", False), False),
    "layer_norm": ("layer_norm", "LigerLayerNormFunction", (1e-5,), False),
    "silu_and_mul": ("swiglu", "LigerSiLUMulFunction", (), True),
    "gelu_and_mul": ("geglu", "LigerGELUMulFunction", (), True),
    "rope": ("rope", "LigerRopeFunction", (), True),
    "cross_entropy": ("cross_entropy", "LigerCrossEntropyFunction", (None,), True),
    "fused_linear_cross_entropy": ("fused_linear_cross_entropy", "LigerFusedLinearCrossEntropyFunction", (), True),
}


def rivals_of(op: Op, device: str, *, compiles: bool, config: Config | None) -> tuple[list[Rival], dict[str, str]]:
    """Everybody who can be timed here, and of the others why not; ``config`` is the tuned one, None for none."""
    eager = _AS_MODELS_DO.get(op.name, op.reference)
    rivals = [Rival(name=EAGER, function=eager), Rival(name=OURS, function=_ours(op, None))]
    left_out = {}
    if compiles:
        # For these sizes alone: compiled for any size it would be slower, and never faster.
        rivals.append(Rival(name=COMPILED, function=torch.compile(eager, dynamic=False)))
    else:
        left_out[COMPILED] = "not asked for (--no-compile)"
    liger = _liger(op, device)
    if isinstance(liger, Rival):
        rivals.append(liger)
    else:
        left_out[LIGER] = liger
    if config is not None:
        rivals.append(Rival(name=TUNED, function=_ours(op, config)))
    return rivals, left_out


def _ours(op: Op, config: Config | None) -> Function:
    settings = op.variants[VARIANTS.get(op.name, "")]
    return lambda *inputs: op.apply(*inputs, **settings, config=config)


def _liger(op: Op, device: str) -> Rival | str:
    if device == "cpu":
        return "runs on a GPU alone"
    if missing():
        return missing()
    if op.name not in _LIGER:
        return "has no such kernel"
    file, name, rest, writes_over = _LIGER[op.name]
    try:
        apply = getattr(importlib.import_module(f"liger_kernel.ops.{file}"), name).apply
    except (ImportError, AttributeError) as error:
        return f"this version does not have it: {in_a_line(error)}"

    def function(*inputs: Any) -> Any:
        made = apply(*(x for x in inputs if x is not None), *rest)
        # A loss comes with what is only given when asked for.
        return made[0] if "cross_entropy" in file else made

    return Rival(name=LIGER, function=function, writes_over=writes_over)
