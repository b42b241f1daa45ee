"""Gated and plain MLPs: Linear layers and an activation, children of the module.

Which Linear is the gate is found out on a copy with tiny Linears, not guessed from names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinkle_tune.catalog import activation, liger, triton
from twinkle_tune.catalog.activation import ActivationFlavour
from twinkle_tune.catalog.probe import generator, holds, random_like, run, same, stand_in, takes_one_input
from twinkle_tune.mode import Mode
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource

_D, _M = 8, 12  # widths of the tiny copies: model, middle
Multiply = Callable[[Any, Tensor, Tensor], Any]
"""Of a module, its gate (..., M) and up (..., M): act(gate) * up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedFlavour:
    """down(act(gate(x)) * up(x)), by the children's names.

    Attributes:
        up: None where one Linear gives gate and up side by side.
        gate_first: of such a Linear, whether the gate is the first half.
        function: which activation it is, in the words of ``ActivationFlavour``.
    """

    gate: str
    up: str | None
    down: str
    act: str
    gate_first: bool = True
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MLPFlavour:
    """second(act(first(x))), by the children's names."""

    first: str
    second: str
    act: str
    function: str


def gated_flavour_of(module: nn.Module) -> GatedFlavour | None:
    """How the module is a gated MLP; None if it is not."""
    parts = _parts(module)
    if parts is None:
        return None
    for flavour in _gated_readings(*parts):
        raising = (flavour.gate, flavour.up) if flavour.up else (flavour.gate,)
        wide = _M if flavour.up else 2 * _M
        if _computes(module, raising, wide, flavour.down, gated_forward(flavour, as_given(flavour.act))):
            return flavour
    return None


def mlp_flavour_of(module: nn.Module) -> MLPFlavour | None:
    """How the module is a plain MLP; None if it is not."""
    parts = _parts(module)
    if parts is None or len(parts[0]) != 2:
        return None
    linears, act, kind = parts
    for first, second in permutations(linears):
        flavour = MLPFlavour(first=first, second=second, act=act, function=kind.function)
        fits = linears[first].out_features == linears[second].in_features
        if fits and _computes(module, (first,), _M, second, mlp_forward(flavour)):
            return flavour
    return None


def gated_contestants(flavour: GatedFlavour, module: nn.Module, device: str) -> list[Candidate]:
    """Candidates for a gated MLP."""
    found = []
    if _is_plain(module, (flavour.gate, flavour.up)):
        # Half of a packed output has its rows far apart: there the activation makes a new tensor to write to.
        overwrite = OVERWRITES.get(flavour.function) if flavour.up else None
        found.append(_for_inference(gated_forward(flavour, in_place(flavour.act, overwrite))))
    product = liger.gated(flavour.function)
    if liger.offered(device) and product is not None:
        found.append(liger.candidate(gated_forward(flavour, product)))
    if triton.offered(device) and triton.has_gated(flavour.function):
        make = triton.gated(flavour.function, flavour.gate, flavour.up, flavour.down, flavour.gate_first)
        call_of = triton.gated_call(flavour.function, not flavour.up, flavour.down)
        found.append(triton.candidate(make, "act_and_mul", call_of=call_of))
    return found


def mlp_contestants(flavour: MLPFlavour, module: nn.Module, device: str) -> list[Candidate]:
    """Candidates for a plain MLP."""
    overwrite = OVERWRITES.get(flavour.function)
    if overwrite is None or not _is_plain(module, (flavour.first,)):
        return []
    return [_for_inference(mlp_forward(flavour, overwrite))]


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


OVERWRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu_,
    "relu": relu_,
    "gelu": gelu_,
    "gelu_tanh": gelu_tanh_,
}
"""Known activations that torch can write over their input."""


def as_given(act: str) -> Multiply:
    """The module's own activation, then a multiplication."""

    def multiply(module: Any, gate: Tensor, up: Tensor) -> Any:
        return getattr(module, act)(gate) * up

    return multiply


def in_place(act: str, overwrite: Callable[[Tensor], Tensor] | None) -> Multiply:
    """The product written over the activation, and that (given ``overwrite``) over the gate.

    Where gradients are on, what would be written over may be needed backward: then as the module does it.
    """

    def multiply(module: Any, gate: Tensor, up: Tensor) -> Any:
        if torch.is_grad_enabled():
            return getattr(module, act)(gate) * up
        activated = getattr(module, act)(gate) if overwrite is None else overwrite(gate)
        return activated.mul_(up)

    return multiply


def gated_forward(flavour: GatedFlavour, multiply: Multiply) -> Callable[..., Any]:
    """A forward of this flavour, with a way to compute act(gate) * up."""
    gate, up, down, gate_first = flavour.gate, flavour.up, flavour.down, flavour.gate_first

    def forward(self: Any, x: Tensor) -> Any:
        if up is None:
            left, right = getattr(self, gate)(x).chunk(2, dim=-1)
            product = multiply(self, left, right) if gate_first else multiply(self, right, left)
        else:
            product = multiply(self, getattr(self, gate)(x), getattr(self, up)(x))
        return getattr(self, down)(product)

    return forward


def mlp_forward(flavour: MLPFlavour, overwrite: Callable[[Tensor], Tensor] | None = None) -> Callable[..., Any]:
    """A forward of this flavour; ``overwrite`` is an activation for when there are no gradients."""
    first, second, act = flavour.first, flavour.second, flavour.act

    def forward(self: Any, x: Tensor) -> Any:
        middle = getattr(self, first)(x)
        if overwrite is None or torch.is_grad_enabled():
            return getattr(self, second)(getattr(self, act)(middle))
        return getattr(self, second)(overwrite(middle))

    return forward


def _for_inference(forward: Callable[..., Any]) -> Candidate:
    return Candidate(
        name="torch.inplace", source=ImplSource(kind="torch", impl=forward), modes=frozenset({Mode.INFERENCE})
    )


def _is_plain(module: nn.Module, names: tuple[str | None, ...]) -> bool:
    """Whether these children are torch's own Linear: its output is new memory that nobody else holds."""
    return all(getattr(type(module._modules[name]), "forward", None) is nn.Linear.forward for name in names if name)


def _parts(module: nn.Module) -> tuple[dict[str, nn.Linear], str, ActivationFlavour] | None:
    """The Linears, the activation's name and which one it is; None where there is more or less than that."""
    if len(module._modules) not in (3, 4) or module._parameters or module._buffers or not takes_one_input(module):
        return None
    linears = {name: child for name, child in module._modules.items() if isinstance(child, nn.Linear)}
    others = {name: child for name, child in module._modules.items() if name not in linears and child is not None}
    if len(linears) not in (2, 3) or len(others) != 1:
        return None
    ((act, child),) = others.items()
    kind = activation.flavour_of(child)
    return None if kind is None else (linears, act, kind)


def _gated_readings(linears: dict[str, nn.Linear], act: str, kind: ActivationFlavour) -> Iterator[GatedFlavour]:
    for gate, *up, down in permutations(linears):
        halves = 1 if up else 2
        middle, lowered = linears[gate].out_features, linears[down].in_features
        if middle != halves * lowered or any(linears[name].out_features != middle for name in up):
            continue
        for gate_first in (True,) if up else (True, False):
            yield GatedFlavour(
                gate=gate,
                up=up[0] if up else None,
                down=down,
                act=act,
                gate_first=gate_first,
                function=kind.function,
            )


def _computes(
    module: nn.Module, raising: tuple[str, ...], wide: int, lowering: str, forward: Callable[..., Any]
) -> bool:
    """Whether a copy with tiny Linears does as ``forward``; ``wide`` is what the raising ones give."""

    def claim() -> bool:
        double = _tiny(module, raising, wide, lowering)
        x = random_like((2, 3, _D), generator()) - 1.0
        return same(run(double, x.clone()), forward(double, x))

    return holds(claim)


def _tiny(module: nn.Module, raising: tuple[str, ...], wide: int, lowering: str) -> nn.Module:
    """A stand-in whose Linears are tiny, so that even the largest MLP is tried in microseconds."""
    source = generator()
    children: dict[str, nn.Module] = {}
    for name, child in module.named_children():  # in the module's order, which a Sequential goes by
        if name in raising:
            children[name] = _tiny_linear(_D, wide, child.bias is not None, source)
        elif name == lowering:
            children[name] = _tiny_linear(_M, _D, child.bias is not None, source)
        else:
            children[name] = stand_in(child)
    double = stand_in(module, children)
    down = module.get_submodule(lowering)
    for name, value in vars(double).items():
        # A forward may read its widths from the module.
        if type(value) is int and value in (down.in_features, down.out_features):
            double.__dict__[name] = _M if value == down.in_features else _D
    return double


def _tiny_linear(wide_in: int, wide_out: int, bias: bool, source: torch.Generator) -> nn.Module:
    linear = nn.Linear(wide_in, wide_out, bias=bias, device="meta")
    linear.weight = nn.Parameter(random_like((wide_out, wide_in), source) - 1.0)
    if bias:
        linear.bias = nn.Parameter(random_like((wide_out,), source) - 1.0)
    return linear
