"""Activations: modules without parameters that change each element by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinkle_tune.catalog.probe import adds_nothing, holds, run, same, stand_in, takes_one_input
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationFlavour:
    """Which function it is: a key of :data:`KNOWN`, or "" for one that is none of them."""

    function: str


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return F.silu(x)


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's probability below x."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """The usual approximation of gelu by a tanh."""
    return F.gelu(x, approximate="tanh")


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return F.relu(x)


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x): no operation of torch's own, so that two of its are left of three."""
    return F.silu(1.702 * x) / 1.702


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2."""
    return F.relu(x).square()


def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x))."""
    return F.mish(x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return torch.tanh(x)


def sigmoid(x: Tensor) -> Tensor:
    """The logistic function."""
    return torch.sigmoid(x)


KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    f.__name__: f for f in (silu, gelu, gelu_tanh, relu, quick_gelu, relu_squared, mish, tanh, sigmoid)
}
"""Functions that a probe looks for."""

# Those that are one operation of torch.
_FUSED = ("silu", "gelu", "gelu_tanh", "relu", "mish")


def flavour_of(module: nn.Module) -> ActivationFlavour | None:
    """Which activation the module is; None if it is none."""
    if module._modules or module._parameters or module._buffers or not takes_one_input(module):
        return None
    if not holds(lambda: _is_elementwise(module)):
        return None
    for name, function in KNOWN.items():
        if holds(lambda function=function: same(run(stand_in(module), grid()), function(grid()))):  # type: ignore[misc]
            return ActivationFlavour(function=name)
    return ActivationFlavour(function="")


def contestants(flavour: ActivationFlavour, module: nn.Module, device: str) -> list[Candidate]:
    """torch's own operation, where the module takes several to do the same."""
    if flavour.function not in _FUSED:
        return []
    forward = fused_activation(KNOWN[flavour.function], widens=holds(lambda: _widens(module)))
    if adds_nothing(module, forward, grid()):
        return []
    return [Candidate(name=f"torch.{flavour.function}", source=ImplSource(kind="torch", impl=forward))]


def fused_activation(function: Callable[[Tensor], Tensor], widens: bool = False) -> Callable[..., Any]:
    """A forward that is one of the functions above; ``widens``: whether half precision gives float32."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return function(x.float() if widens and x.dtype in (torch.float16, torch.bfloat16) else x)

    return forward


def grid() -> Tensor:
    """Points (6, 40) from -12 to 12."""
    return torch.linspace(-12.0, 12.0, 240, device="cpu", dtype=torch.float32).reshape(6, 40)


def _widens(module: nn.Module) -> bool:
    given = run(stand_in(module), grid().bfloat16())
    return isinstance(given, Tensor) and given.dtype == torch.float32


def _is_elementwise(module: nn.Module) -> bool:
    """Whether a part of the input gives that part of the output, and not merely the input (a dropout)."""
    whole = run(stand_in(module), grid())
    part = run(stand_in(module), grid()[1:4, 10:30])
    return same(part, whole[1:4, 10:30]) and whole.shape == grid().shape and not torch.equal(whole, grid())
