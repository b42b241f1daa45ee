"""From an observed call to the op that our candidate runs in it: pure functions, None where the call does not tell.

A variant is the one that is nearest to what is called: it decides on a config, and whether that is right with what is
really called the contest finds out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from twinkle_tune.ops.all import op_named
from twinkle_tune.ops.op import OpCall
from twinkle_tune.workload import Node, Plain, TensorSpec, Workload

CallOf = Callable[[Workload], OpCall | None]
"""Of a workload the op's call in it."""


def of_rows(op: str, variant: str) -> CallOf:
    """An op on the rows of the first tensor argument (..., width)."""

    def call_of(workload: Workload) -> OpCall | None:
        x = workload.tensors[0] if workload.tensors else None
        return None if x is None or not x.shape else _call(op, x.dtype, variant, rows=x.rows, width=x.shape[-1])

    return call_of


def of_rms_norm(weight: str | None, offset: float, casts_last: bool) -> CallOf:
    """RMSNorm of a module with these attributes."""
    return of_rows("rms_norm", "no_weight" if weight is None else "gemma" if offset or casts_last else "")


def of_layer_norm(weight: str | None, bias: str | None) -> CallOf:
    """LayerNorm of a module with these attributes."""
    return of_rows("layer_norm", "plain" if weight is None else "no_bias" if bias is None else "")


def of_gated(op: str, variant: str, down: str) -> CallOf:
    """The activation and product inside a gated MLP: as wide as what the child ``down`` takes."""

    def call_of(workload: Workload) -> OpCall | None:
        x = workload.tensors[0] if workload.tensors else None
        weight = dict(workload.settings).get(f"{down}.weight")
        if x is None or not isinstance(weight, TensorSpec) or len(weight.shape) != 2:
            return None
        # Under autocast a Linear gives another dtype than it takes.
        dtype = workload.context.autocast or x.dtype
        return _call(op, dtype, variant, rows=x.rows, width=weight.shape[1])

    return call_of


def of_linear_act(variant: str, first: str, weight: str, transposed: bool) -> CallOf:
    """A Linear, the child ``first`` with the parameter ``weight``, and its activation."""

    def call_of(workload: Workload) -> OpCall | None:
        x = workload.tensors[0] if workload.tensors else None
        matrix = dict(workload.settings).get(f"{first}.{weight}")
        if x is None or not isinstance(matrix, TensorSpec) or len(matrix.shape) != 2:
            return None
        width, out = matrix.shape if transposed else matrix.shape[::-1]
        return _call("linear_act", workload.context.autocast or x.dtype, variant, rows=x.rows, width=width, out=out)

    return call_of


def of_rope(interleaved: bool) -> CallOf:
    """A rotary function of (q, k, cos, sin), with heads at dimension ``unsqueeze_dim``."""

    def call_of(workload: Workload) -> OpCall | None:
        given = {**dict(zip(("q", "k", "cos", "sin"), workload.args, strict=False)), **dict(workload.kwargs)}
        q, k, cos = (given.get(name) for name in ("q", "k", "cos"))
        heads_at = _heads_at(workload, given)
        if not (isinstance(q, TensorSpec) and isinstance(k, TensorSpec) and isinstance(cos, TensorSpec)):
            return None
        if heads_at is None or len(q.shape) != 4 or len(k.shape) != 4 or not cos.shape:
            return None
        return _call(
            "rope",
            q.dtype,
            "interleaved" if interleaved else "",
            tokens=q.shape[0] * q.shape[3 - heads_at],
            heads=q.shape[heads_at],
            kv_heads=k.shape[heads_at],
            width=q.shape[3],
            turned=cos.shape[-1],
        )

    return call_of


def of_loss(workload: Workload) -> OpCall | None:
    """Cross entropy of logits (rows, classes), the argument ``source``."""
    logits = workload.args[0] if workload.args else dict(workload.kwargs).get("source")
    if not isinstance(logits, TensorSpec) or len(logits.shape) != 2:
        return None
    return _call("cross_entropy", logits.dtype, "", rows=logits.shape[0], classes=logits.shape[1])


def of_head(workload: Workload) -> OpCall | None:
    """The last layer and the loss of a language model that is called with ``input_ids`` or ``inputs_embeds``."""
    given, told = dict(workload.kwargs), dict(workload.settings)
    named = (given.get(name) for name in ("input_ids", "inputs_embeds"))
    ids = next((node for node in named if isinstance(node, TensorSpec)), None)
    width, classes, dtype = (getattr(told.get(name), "value", None) for name in ("hidden_size", "vocab_size", "dtype"))
    if ids is None or len(ids.shape) < 2 or not (isinstance(width, int) and isinstance(classes, int)):
        return None
    rows = ids.shape[0] * ids.shape[1]
    dtype = workload.context.autocast or dtype
    return _call("fused_linear_cross_entropy", str(dtype), "", rows=rows, width=width, classes=classes)


def _heads_at(workload: Workload, given: dict[str, Node]) -> int | None:
    """1 (the default) or 2; None where it is given in a way that is not understood."""
    if len(workload.args) > 4:
        return None
    node = given.get("unsqueeze_dim", Plain(value=1))
    return int(node.value) if isinstance(node, Plain) and node.value in (1, 2) else None


def _call(op: str, dtype: str, variant: str, **dims: int) -> OpCall | None:
    if not all(dims.values()):
        return None  # an empty call launches no kernel
    return OpCall(op=op_named(op), dims=dims, dtype=getattr(torch, dtype), variant=variant)
