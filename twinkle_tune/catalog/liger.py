"""Liger-Kernel's kernels, in forms that leave everybody's tensors alone. CUDA only.

Several of them save memory by writing over what they were given: the rotary one over q, k and the incoming
gradients, the gated activations over the saved activations, the cross entropy over the logits. A caller that
still holds such a tensor, or goes backward twice, would see garbage: here they get copies to write to.

Liger is imported at the first call, never before.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.catalog.norm import HALVES
from twinkle_tune.ops.once import differentiable_once
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource


def offered(device: str) -> bool:
    """Whether Liger's candidates have a place in a contest on this device."""
    return device == "cuda" and not missing()


def missing() -> str:
    """Why Liger cannot be used here; "" if it can."""
    absent = [name for name in ("liger_kernel", "triton") if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} is not installed; pip install liger-kernel" if absent else ""


def candidate(impl: Callable[..., Any]) -> Candidate:
    """The candidate "liger" of a slot."""
    source = ImplSource(impl=impl, kind="liger", requires=missing, package="liger-kernel")
    return Candidate(name="liger", source=source, device="cuda")


def rms_norm(weight: str | None, eps: str, offset: float, casting: str, to_weight: bool = False) -> Callable[..., Any]:
    """RMSNorm; ``casting`` is "llama" (rounded before the weight is applied) or "gemma" (rounded last).

    Args:
        to_weight: whether the result gets the dtype of a weight in half precision, whatever the input's.
    """

    def forward(self: Any, x: Tensor) -> Any:
        scale = getattr(self, weight) if weight else None
        apply = _function("rms_norm", "LigerRMSNormFunction")
        # False, not in place: the incoming gradient is not written over.
        given = apply(x, scale, getattr(self, eps), offset, casting, False)
        return given.to(scale.dtype) if to_weight and scale is not None and scale.dtype in HALVES else given

    return forward


def layer_norm(weight: str, bias: str, eps: str) -> Callable[..., Any]:
    """LayerNorm with weight and bias."""

    def forward(self: Any, x: Tensor) -> Any:
        apply = _function("layer_norm", "LigerLayerNormFunction")
        return apply(x, getattr(self, weight), getattr(self, bias), getattr(self, eps))

    return forward


def gated(activation: str) -> Callable[[Any, Tensor, Tensor], Any] | None:
    """``activation(gate) * up`` in one kernel; None for an activation that Liger has no kernel for."""
    return {"silu": silu_and_multiply, "gelu_tanh": gelu_tanh_and_multiply}.get(activation)


def silu_and_multiply(module: Any, gate: Tensor, up: Tensor) -> Any:
    """silu(gate) * up; nothing of the module is needed."""
    return _applied(_Gated, "swiglu", gate, up)


def gelu_tanh_and_multiply(module: Any, gate: Tensor, up: Tensor) -> Any:
    """gelu(gate, by a tanh) * up; nothing of the module is needed."""
    return _applied(_Gated, "geglu", gate, up)


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """Rotary embedding of q and k (batch, heads, sequence, width) by cos, sin (batch or 1, sequence, w)."""
    return _applied(_Rotate, q, k, cos, sin)


def cross_entropy(source: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Any:
    """Cross entropy of logits (rows, classes) and class indices (rows)."""
    return _applied(_CrossEntropy, source, target, ignore_index, reduction)


def fused_linear_cross_entropy(x: Tensor, weight: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Any:
    """Cross entropy of the logits of x (rows, width) and weight (classes, width), without holding all of them."""
    apply = _function("fused_linear_cross_entropy", "LigerFusedLinearCrossEntropyFunction")
    # Named arguments cannot be given to a Function: bias, class weights, ..., and the dtype of the weight's gradient.
    found = apply(x, weight, target, None, None, ignore_index, 0.0, 0.0, reduction, None, False, torch.float32)
    return found[0] if isinstance(found, tuple) else found


def _applied(function: Any, *args: Any) -> Any:
    # torch gives apply no types.
    return function.apply(*args)


@cache
def _ops(file: str) -> Any:
    return importlib.import_module(f"liger_kernel.ops.{file}")


@cache
def _function(file: str, name: str) -> Any:
    made = getattr(_ops(file), name)
    guarded = {"backward": staticmethod(differentiable_once(made.backward))}
    once: Any = type(name, (made,), guarded)
    return once.apply


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, gate: Tensor, up: Tensor) -> Tensor:
        gate, up, product = getattr(_ops(name), f"{name}_forward")(gate.contiguous(), up.contiguous())
        ctx.name = name
        ctx.save_for_backward(gate, up)
        result: Tensor = product
        return result

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        backward = getattr(_ops(ctx.name), f"{ctx.name}_backward")
        d_gate, d_up = backward(gate.clone(), up.clone(), gradients[0].contiguous())
        shape = gradients[0].shape
        return None, d_gate.view(shape), d_up.view(shape)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        q, k, cos, sin = _ops("rope").rope_forward(q.clone(), k.clone(), cos, sin)
        ctx.save_for_backward(cos, sin)
        return q, k

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        dq, dk = _ops("rope").rope_backward(gradients[0].clone(), gradients[1].clone(), cos, sin)
        return dq, dk, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor:
        # The kernel turns the logits that it is given into their gradient where they ask for one, and writes zeros
        # over the rows that do not count in any case.
        wanted = ctx.needs_input_grad[0]
        logits = source.detach().clone().requires_grad_(wanted)
        given = _ops("cross_entropy").cross_entropy_forward(
            logits, target, None, ignore_index, 0.0, 0.0, reduction, None, False
        )
        if wanted:
            ctx.save_for_backward(given[-1].detach())
        loss: Tensor = given[0]
        return loss

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None
