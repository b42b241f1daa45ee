"""Forwards for MLPs made of torch's own operations: the ways to compute act(first(x)), act(gate) * up and what follows.

What a forward holds are plain values: they are part of a candidate's digest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from twinkle_tune.catalog.activation import KNOWN
from twinkle_tune.catalog.recompute import activated_again, is_bare, lowered_again

Multiply = Callable[[Any, Tensor, Tensor], Any]
"""Of a module, its gate (..., M) and up (..., M): act(gate) * up."""


class Raising(NamedTuple):
    """The Linear before an activation, and the activation.

    Attributes:
        first: the child; act: the activation's child, None where the module calls a function.
        function: which activation, in the words of ``ActivationFlavour``.
        weight, bias: the Linear's parameters; transposed: whether its weight is (in, out).
    """

    first: str
    act: str | None
    function: str
    weight: str
    bias: str | None
    transposed: bool


class Lowering(NamedTuple):
    """What follows the middle of an MLP.

    Attributes:
        down: the last Linear; None where the module ends before it.
        inner, outer: dropouts (or nothing at all: Identity) before and after it; None for none.
        casts: whether the middle gets the dtype of the Linear's weight, unless that is int8 (T5).
        weight, bias: the Linear's parameters; transposed: whether its weight is (in, out).
    """

    down: str | None
    inner: str | None
    outer: str | None
    casts: bool
    weight: str
    bias: str | None
    transposed: bool


def silu_(x: Tensor) -> Tensor:
    """silu, written over its input."""
    return F.silu(x, inplace=True)


def relu_(x: Tensor) -> Tensor:
    """relu, written over its input."""
    return F.relu(x, inplace=True)


def gelu_(x: Tensor) -> Tensor:
    """gelu, written over its input."""
    over: Tensor = torch.ops.aten.gelu_(x)
    return over


def gelu_tanh_(x: Tensor) -> Tensor:
    """gelu by a tanh, written over its input."""
    over: Tensor = torch.ops.aten.gelu_(x, approximate="tanh")
    return over


def quick_gelu_(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), written over its input."""
    return x.mul_(torch.sigmoid(1.702 * x))


def relu_squared_(x: Tensor) -> Tensor:
    """max(x, 0)^2, written over its input."""
    return F.relu(x, inplace=True).square_()


def mish_(x: Tensor) -> Tensor:
    """mish, written over its input."""
    return F.mish(x, inplace=True)


OVERWRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu_,
    "relu": relu_,
    "gelu": gelu_,
    "gelu_tanh": gelu_tanh_,
    "quick_gelu": quick_gelu_,
    "relu_squared": relu_squared_,
    "mish": mish_,
    "tanh": torch.tanh_,
    "sigmoid": torch.sigmoid_,
}
"""Known activations that torch can write over their input."""

TRAINS = frozenset({"relu", "tanh", "sigmoid"})
"""Of these the ones whose backward reads the output, not the input: written over it also where gradients are on."""


def activated(module: Any, act: str | None, function: str, x: Tensor) -> Any:
    """The activation as the module has it."""
    return KNOWN[function](x) if act is None else getattr(module, act)(x)


def as_given(act: str | None, function: str = "") -> Multiply:
    """The module's own activation, then a multiplication."""

    def multiply(module: Any, gate: Tensor, up: Tensor) -> Any:
        return activated(module, act, function, gate) * up

    return multiply


def in_place(act: str | None, function: str, overwrite: Callable[[Tensor], Tensor] | None) -> Multiply:
    """The product written over the activation, and that (given ``overwrite``) over the gate.

    Where gradients are on, what would be written over may be needed backward: then as the module does it.
    """

    def multiply(module: Any, gate: Tensor, up: Tensor) -> Any:
        if torch.is_grad_enabled():
            return activated(module, act, function, gate) * up
        made = activated(module, act, function, gate) if overwrite is None else overwrite(gate)
        return made.mul_(up)

    return multiply


def lowered(module: Any, middle: Any, how: Lowering) -> Any:
    """What follows the middle, by the module's own children."""
    if how.inner is not None and _drops(module, how.inner):
        middle = getattr(module, how.inner)(middle)
    if how.down is not None:
        down = getattr(module, how.down)
        if how.casts:
            dtype = getattr(down, how.weight).dtype
            middle = middle if dtype in (middle.dtype, torch.int8) else middle.to(dtype)
        middle = down(middle)
    if how.outer is not None and _drops(module, how.outer):
        middle = getattr(module, how.outer)(middle)
    return middle


def gated_forward(
    gate: str, up: str | None, gate_first: bool, lowering: Lowering, multiply: Multiply
) -> Callable[..., Any]:
    """A forward of a gated MLP, with a way to compute act(gate) * up."""

    def forward(self: Any, x: Tensor) -> Any:
        return lowered(self, multiply(self, *_gate_and_up(self, x, gate, up, gate_first)), lowering)

    return forward


def gated_on_less_memory(
    gate: str, up: str | None, gate_first: bool, act: str | None, function: str, lowering: Lowering
) -> Callable[..., Any]:
    """A forward of a gated MLP that keeps gate and up for the backward, and nothing else that is as wide."""

    def forward(self: Any, x: Tensor) -> Any:
        left, right = _gate_and_up(self, x, gate, up, gate_first)
        if _can_recompute(self, lowering, left, right):
            return _recomputed(self, function, left, right, lowering)
        return lowered(self, activated(self, act, function, left) * right, lowering)

    return forward


def mlp_forward(
    raising: Raising, lowering: Lowering, overwrite: Callable[[Tensor], Tensor] | None = None, trains: bool = False
) -> Callable[..., Any]:
    """A forward of a plain MLP, or of its first half; ``overwrite`` is an activation for when there are no gradients.

    Args:
        trains: whether ``overwrite`` is right where there are gradients, too.
    """
    first, act, function = raising.first, raising.act, raising.function

    def forward(self: Any, x: Tensor) -> Any:
        middle = getattr(self, first)(x)
        if overwrite is None or (torch.is_grad_enabled() and not trains):
            return lowered(self, activated(self, act, function, middle), lowering)
        return lowered(self, overwrite(middle), lowering)

    return forward


def mlp_on_less_memory(raising: Raising, lowering: Lowering) -> Callable[..., Any]:
    """A forward of a plain MLP that keeps the activation's input for the backward, not what the last Linear takes."""
    first, act, function = raising.first, raising.act, raising.function

    def forward(self: Any, x: Tensor) -> Any:
        middle = getattr(self, first)(x)
        if _can_recompute(self, lowering, middle):
            return _recomputed(self, function, middle, None, lowering)
        return lowered(self, activated(self, act, function, middle), lowering)

    return forward


def activation_on_less_memory(raising: Raising, lowering: Lowering) -> Callable[..., Any]:
    """A forward of a Linear and an activation that keeps its input alone, and computes the Linear twice."""
    first, act, function = raising.first, raising.act, raising.function
    weight_name, bias_name, transposed = raising.weight, raising.bias, raising.transposed

    def forward(self: Any, x: Tensor) -> Any:
        linear = getattr(self, first)
        weight = getattr(linear, weight_name)
        bias = None if bias_name is None else getattr(linear, bias_name)
        if torch.is_grad_enabled() and x.dtype == weight.dtype and is_bare(x, weight, bias):
            return lowered(self, activated_again(function, transposed, x, weight, bias), lowering)
        return lowered(self, activated(self, act, function, linear(x)), lowering)

    return forward


def one_call_forward(raising: Raising, lowering: Lowering, use_gelu: bool) -> Callable[..., Any]:
    """A forward whose first Linear and activation are one call of torch's, for when there are no gradients.

    Args:
        use_gelu: gelu, in the form that torch has for the device (by erf on a CPU, by a tanh on CUDA), or relu.
    """
    first, act, function = raising.first, raising.act, raising.function
    weight_name, bias_name, transposed = raising.weight, raising.bias, raising.transposed

    def forward(self: Any, x: Tensor) -> Any:
        linear = getattr(self, first)
        weight, bias = getattr(linear, weight_name), getattr(linear, str(bias_name))
        if torch.is_grad_enabled() or x.dtype != weight.dtype or not is_bare(x, weight, bias):
            return lowered(self, activated(self, act, function, linear(x)), lowering)
        matrix = weight if transposed else weight.t()
        middle = torch._addmm_activation(bias, x.reshape(-1, x.shape[-1]), matrix, use_gelu=use_gelu)
        return lowered(self, middle.view(*x.shape[:-1], matrix.shape[1]), lowering)

    return forward


def _gate_and_up(module: Any, x: Tensor, gate: str, up: str | None, gate_first: bool) -> tuple[Tensor, Tensor]:
    if up is not None:
        return getattr(module, gate)(x), getattr(module, up)(x)
    left, right = getattr(module, gate)(x).chunk(2, dim=-1)
    return (left, right) if gate_first else (right, left)


def _drops(module: Any, name: str) -> bool:
    """Whether a dropout does anything now: called it draws as the original does."""
    dropout = getattr(module, name)
    return bool(dropout.training and getattr(dropout, "p", 0.0))


def _can_recompute(module: Any, how: Lowering, *middle: Tensor) -> bool:
    down = getattr(module, str(how.down))
    weight = getattr(down, how.weight)
    bias = None if how.bias is None else getattr(down, how.bias)
    alike = {tensor.dtype for tensor in middle} == {middle[0].dtype}
    fits = weight.is_floating_point() if how.casts else weight.dtype == middle[0].dtype
    return torch.is_grad_enabled() and alike and fits and is_bare(*middle, weight, bias)


def _recomputed(module: Any, function: str, pre: Tensor, up: Tensor | None, how: Lowering) -> Any:
    down = getattr(module, str(how.down))
    noise = None
    if how.inner is not None and _drops(module, how.inner):
        with torch.no_grad():
            noise = getattr(module, how.inner)(torch.ones_like(pre, memory_format=torch.contiguous_format))
    bias = None if how.bias is None else getattr(down, how.bias)
    out: Any = lowered_again(function, how.transposed, pre, up, noise, getattr(down, how.weight), bias)
    return getattr(module, how.outer)(out) if how.outer is not None and _drops(module, how.outer) else out
