"""MLPs that train on less memory: what is cheap to compute again is not kept for the backward.

Of ``down(act(pre))`` autograd keeps the activation's input and the last Linear's, which is the activation's output;
of ``down(act(gate) * up)`` four tensors as wide as the middle. Here only the activation's input (and ``up``) is kept,
and the backward computes the rest again, writing over it where nobody looks any more. Activations that are written out
in several operations, each with tensors of its own, become one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from twinkle_tune.catalog.activation import KNOWN


def silu_slope(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient before silu."""
    found: Tensor = torch.ops.aten.silu_backward(gradient, x)
    return found


def gelu_slope(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient before gelu."""
    found: Tensor = torch.ops.aten.gelu_backward(gradient, x)
    return found


def gelu_tanh_slope(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient before gelu by a tanh."""
    found: Tensor = torch.ops.aten.gelu_backward(gradient, x, approximate="tanh")
    return found


def relu_slope(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient before relu."""
    found: Tensor = torch.ops.aten.threshold_backward(gradient, x, 0)
    return found


def quick_gelu_slope(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient before x * sigmoid(1.702 x)."""
    found: Tensor = torch.ops.aten.silu_backward(gradient, 1.702 * x)
    return found


SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": silu_slope,
    "gelu": gelu_slope,
    "gelu_tanh": gelu_tanh_slope,
    "relu": relu_slope,
    "quick_gelu": quick_gelu_slope,
}
"""Of known activations the gradient of their input, given that of their output and the input."""


def is_bare(*tensors: Tensor | None) -> bool:
    """Whether a call is nothing but torch's own arithmetic on plain tensors.

    Under autocast, transforms (``torch.func``, forward mode), torch.compile and with tensors of other libraries
    (quantised, sharded) the operations below are not what the layer's own would be there.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        all(type(tensor) in (Tensor, nn.Parameter) for tensor in given)
        and not torch.is_autocast_enabled(given[0].device.type)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def multiplied(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    """x (..., in) @ weight + bias as the layer itself does it."""
    if not transposed:
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    out = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
    return out.view(*x.shape[:-1], weight.shape[1])


def lowered_again(
    function: str,
    transposed: bool,
    pre: Tensor,
    up: Tensor | None,
    noise: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """The last Linear of act(pre) [* up] [* noise] (..., middle), of which the backward computes the product again.

    Args:
        function: a key of :data:`SLOPES`.
        transposed: whether ``weight`` is (in, out).
        noise: what a dropout multiplies by; None for none.
    """
    found: Tensor = _Lowered.apply(function, transposed, pre, up, noise, weight, bias)  # type: ignore[no-untyped-call]
    return found


def activated_again(
    function: str, transposed: bool, x: Tensor, weight: Tensor, bias: Tensor | None, pre: Tensor | None = None
) -> Tensor:
    """act(Linear(x)), of which the backward computes the Linear again: x (..., in) is all that is kept.

    Args:
        function: a key of :data:`SLOPES`.
        transposed: whether ``weight`` is (in, out).
        pre: Linear(x) where it is there already, detached.
    """
    found: Tensor = _Activated.apply(function, transposed, x, weight, bias, pre)  # type: ignore[no-untyped-call]
    return found


class _Lowered(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: str,
        transposed: bool,
        pre: Tensor,
        up: Tensor | None,
        noise: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.function, ctx.transposed = function, transposed
        ctx.save_for_backward(pre, up, noise, weight)
        product = KNOWN[function](pre)
        for factor in (up, noise):
            product = product if factor is None else product.mul_(factor)
        return multiplied(product.to(weight.dtype), weight, bias, transposed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        pre, up, noise, weight = ctx.saved_tensors
        (gradient,), wanted = gradients, ctx.needs_input_grad
        activated = KNOWN[ctx.function](pre)
        d_weight = d_bias = d_up = d_pre = None
        if wanted[5] or wanted[6]:
            product = activated if up is None else activated * up
            product = product if noise is None else product * noise
            d_weight, d_bias = _of_parameters(gradient, product.to(weight.dtype), ctx.transposed, wanted[5:7])
        if wanted[2] or wanted[3]:
            d_product = (gradient @ (weight.t() if ctx.transposed else weight)).to(pre.dtype)
            d_product = d_product if noise is None else _times(d_product, noise)
            if up is not None:
                d_up = _times(activated, d_product) if wanted[3] else None
                d_product = _times(d_product, up)
            d_pre = SLOPES[ctx.function](d_product, pre) if wanted[2] else None
        return None, None, d_pre, d_up, None, d_weight, d_bias


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: str,
        transposed: bool,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pre: Tensor | None,
    ) -> Tensor:
        ctx.function, ctx.transposed = function, transposed
        ctx.save_for_backward(x, weight, bias)
        return KNOWN[function](multiplied(x, weight, bias, transposed) if pre is None else pre)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, bias = ctx.saved_tensors
        (gradient,), wanted = gradients, ctx.needs_input_grad
        d_pre = SLOPES[ctx.function](gradient, multiplied(x, weight, bias, ctx.transposed))
        d_weight, d_bias = _of_parameters(d_pre, x, ctx.transposed, wanted[3:5])
        d_x = d_pre @ (weight.t() if ctx.transposed else weight) if wanted[2] else None
        return None, None, d_x, d_weight, d_bias, None


def _times(a: Tensor, b: Tensor) -> Tensor:
    """a * b, written over a unless the backward itself is differentiated (``create_graph``)."""
    return a * b if torch.is_grad_enabled() else a.mul_(b)


def _of_parameters(
    gradient: Tensor, x: Tensor, transposed: bool, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    rows, given = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
    d_weight = None
    if wanted[0]:
        d_weight = given.t() @ rows if transposed else rows.t() @ given
    return d_weight, rows.sum(0) if wanted[1] else None
