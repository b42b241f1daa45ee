"""Gated and plain MLPs, and the first half of one: Linear layers, an activation, dropouts, children of the module.

Which Linear is the gate, and where a dropout stands, is found out on a copy with tiny Linears, not guessed from names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from torch import nn

from twinkle_tune.catalog import liger, triton
from twinkle_tune.catalog.mlp_forms import (
    OVERWRITES,
    TRAINS,
    Lowering,
    Raising,
    activation_on_less_memory,
    as_given,
    gated_forward,
    gated_on_less_memory,
    in_place,
    mlp_forward,
    mlp_on_less_memory,
    one_call_forward,
)
from twinkle_tune.catalog.mlp_parts import MIDDLE, Parts, casts_to_weight, computes, parts_of, readings
from twinkle_tune.catalog.projection import projection_of
from twinkle_tune.catalog.recompute import SLOPES
from twinkle_tune.mode import Mode
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource

_GELU_OF_ADDMM = {"cpu": "gelu", "cuda": "gelu_tanh"}
"""Which gelu torch's addmm with an activation computes on a device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedFlavour:
    """down(act(gate(x)) * up(x)), by the children's names.

    Attributes:
        up: None where one Linear gives gate and up side by side.
        gate_first: of such a Linear, whether the gate is the first half.
        act: the activation's child; None where the module calls a function.
        function: which activation it is, in the words of ``ActivationFlavour``.
        lowering: what follows the product.
        plain: whether gate and up give new memory that nobody else holds.
    """

    gate: str
    up: str | None
    act: str | None
    gate_first: bool = True
    function: str
    lowering: Lowering
    plain: bool

    @property
    def down(self) -> str:
        """The last Linear."""
        return str(self.lowering.down)


@dataclass(frozen=True, slots=True, kw_only=True)
class MLPFlavour:
    """second(act(first(x))), by the children's names; or act(first(x)) alone.

    Attributes:
        raising: the first Linear and the activation.
        lowering: what follows.
        plain: whether the first Linear gives new memory that nobody else holds.
        keeps: whether the second Linear's own forward is plain.
    """

    raising: Raising
    lowering: Lowering
    plain: bool
    keeps: bool


def gated_flavour_of(module: nn.Module) -> GatedFlavour | None:
    """How the module is a gated MLP; None if it is not."""
    parts = parts_of(module)
    if parts is None or len(parts.linears) not in (2, 3):
        return None
    for flavour in _gated_readings(parts):
        raising = (flavour.gate, flavour.up) if flavour.up else (flavour.gate,)
        wide = MIDDLE if flavour.up else 2 * MIDDLE
        forward = gated_forward(
            flavour.gate,
            flavour.up,
            flavour.gate_first,
            flavour.lowering,
            as_given(flavour.act, flavour.function),
        )
        if computes(module, parts, raising, wide, flavour.down, forward):
            casts = casts_to_weight(module, parts, raising, wide, flavour.down)
            return replace(flavour, lowering=flavour.lowering._replace(casts=casts))
    return None


def mlp_flavour_of(module: nn.Module) -> MLPFlavour | None:
    """How the module is a plain MLP; None if it is not."""
    parts = parts_of(module)
    if parts is None or len(parts.linears) != 2:
        return None
    for (first, second), function, places in readings(permutations(parts.linears), parts):
        found = parts.linears
        if found[first].wide_out != found[second].wide_in:
            continue
        flavour = _mlp_flavour(parts, first, second, function, places)
        if computes(module, parts, (first,), MIDDLE, second, mlp_forward(flavour.raising, flavour.lowering)):
            casts = casts_to_weight(module, parts, (first,), MIDDLE, second)
            return replace(flavour, lowering=flavour.lowering._replace(casts=casts))
    return None


def linear_act_flavour_of(module: nn.Module) -> MLPFlavour | None:
    """How the module is a Linear and an activation, the first half of an MLP; None if it is not."""
    parts = parts_of(module)
    if parts is None or len(parts.linears) != 1 or len(parts.dropouts) > 1:
        return None
    (first,) = parts.linears
    for function in parts.functions:
        flavour = _mlp_flavour(parts, first, None, function, (None, *parts.dropouts, None)[:2])
        if computes(module, parts, (first,), MIDDLE, None, mlp_forward(flavour.raising, flavour.lowering)):
            return flavour
    return None


def gated_contestants(flavour: GatedFlavour, module: nn.Module, device: str) -> list[Candidate]:
    """Candidates for a gated MLP."""
    found = []
    where = (flavour.gate, flavour.up, flavour.gate_first)
    if flavour.plain:
        # Half of a packed output has its rows far apart: there the activation makes a new tensor to write to.
        overwrite = OVERWRITES.get(flavour.function) if flavour.up else None
        multiply = in_place(flavour.act, flavour.function, overwrite)
        found.append(_torch("inplace", gated_forward(*where, flavour.lowering, multiply), Mode.INFERENCE))
    if flavour.function in SLOPES and _is_plain(module, flavour.down):
        forward = gated_on_less_memory(*where, flavour.act, flavour.function, flavour.lowering)
        found.append(_torch("recompute", forward, Mode.TRAIN))
    product = liger.gated(flavour.function)
    if liger.offered(device) and product is not None:
        found.append(liger.candidate(gated_forward(*where, flavour.lowering, product)))
    if triton.offered(device) and triton.has_gated(flavour.function):
        make = triton.gated(flavour.function, *where, flavour.lowering)
        call_of = triton.gated_call(flavour.function, not flavour.up, flavour.down)
        found.append(triton.candidate(make, "act_and_mul", call_of=call_of))
    return found


def mlp_contestants(flavour: MLPFlavour, module: nn.Module, device: str) -> list[Candidate]:
    """Candidates for a plain MLP, or for its first half."""
    found = []
    raising, lowering, function = flavour.raising, flavour.lowering, flavour.raising.function
    overwrite = OVERWRITES.get(function)
    if overwrite is not None and flavour.plain:
        trains = function in TRAINS
        modes = (Mode.INFERENCE, Mode.TRAIN) if trains else (Mode.INFERENCE,)
        found.append(_torch("inplace", mlp_forward(raising, lowering, overwrite, trains), *modes))
    if flavour.plain and raising.bias is not None and function in ("relu", _GELU_OF_ADDMM.get(device)):
        forward = one_call_forward(raising, lowering, function != "relu")
        found.append(_torch("addmm_activation", forward, Mode.INFERENCE))
    if function in SLOPES and function not in TRAINS:
        if lowering.down is not None and flavour.keeps:
            found.append(_torch("recompute", mlp_on_less_memory(raising, lowering), Mode.TRAIN))
        elif lowering.down is None and flavour.plain:
            found.append(_torch("recompute", activation_on_less_memory(raising, lowering), Mode.TRAIN))
    if flavour.plain and triton.offered(device) and triton.has_linear_act(function):
        make, call_of = triton.linear_act(raising, lowering), triton.linear_act_call(raising)
        found.append(triton.candidate(make, "linear_act", "act_and_mul", call_of=call_of))
    return found


def _torch(name: str, forward: Callable[..., Any], *modes: Mode) -> Candidate:
    # One for training alone gains nothing elsewhere: it runs the original there.
    source, alone = ImplSource(kind="torch", impl=forward), Mode.INFERENCE not in modes
    return Candidate(name=f"torch.{name}", source=source, modes=frozenset(modes), alone=alone)


def _is_plain(module: nn.Module, name: str) -> bool:
    child = module._modules[name]
    found = None if child is None else projection_of(child)
    return found is not None and found.plain


def _mlp_flavour(
    parts: Parts, first: str, second: str | None, function: str, places: tuple[str | None, ...]
) -> MLPFlavour:
    raised = parts.linears[first]
    return MLPFlavour(
        raising=Raising(
            first=first,
            act=parts.act,
            function=function,
            weight=raised.weight,
            bias=raised.bias,
            transposed=raised.transposed,
        ),
        lowering=parts.lowering(second, *places),
        plain=raised.plain,
        keeps=second is not None and parts.linears[second].plain,
    )


def _gated_readings(parts: Parts) -> Iterator[GatedFlavour]:
    linears = parts.linears
    for (gate, *up, down), function, places in readings(permutations(linears), parts):
        halves = 1 if up else 2
        middle, lowered = linears[gate].wide_out, linears[down].wide_in
        if middle != halves * lowered or any(linears[name].wide_out != middle for name in up):
            continue
        for gate_first in (True,) if up else (True, False):
            yield GatedFlavour(
                gate=gate,
                up=up[0] if up else None,
                act=parts.act,
                gate_first=gate_first,
                function=function,
                lowering=parts.lowering(down, *places),
                plain=all(linears[name].plain for name in (gate, *up)),
            )
