"""What an MLP is made of: the children of a module by what they do, and tiny copies that tell how they are joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.catalog import activation
from twinkle_tune.catalog.mlp_forms import Lowering
from twinkle_tune.catalog.probe import generator, holds, random_like, run, same, stand_in, takes_one_input
from twinkle_tune.catalog.projection import Projection, projection_of, tiny_projection

MODEL, MIDDLE = 8, 12
"""Widths of the tiny copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The children of a module that may be an MLP.

    Attributes:
        linears: by name, in the module's order.
        act: the activation; None where the module has none, and calls a function.
        functions: what the activation may be, in the words of ``ActivationFlavour``.
        dropouts: names of dropouts, and of what stands in the place of one (Identity).
    """

    linears: dict[str, Projection]
    act: str | None
    functions: tuple[str, ...]
    dropouts: tuple[str, ...]

    def places(self) -> Iterator[tuple[str | None, str | None]]:
        """The ways in which the dropouts may stand before and after the last Linear; one may stand in both places."""
        one, two = (*self.dropouts, None, None)[:2]
        yield from dict.fromkeys(((one, two), (two, one)))
        if one is not None and two is None:
            yield one, one

    def lowering(self, down: str | None, inner: str | None, outer: str | None) -> Lowering:
        """What follows the middle, with these children."""
        found = None if down is None else self.linears[down]
        return Lowering(
            down=down,
            inner=inner,
            outer=outer,
            casts=False,
            weight="" if found is None else found.weight,
            bias=None if found is None else found.bias,
            transposed=found is not None and found.transposed,
        )


def parts_of(module: nn.Module) -> Parts | None:
    """The children, where they are what an MLP is made of; None where there is anything else."""
    if not module._modules or module._parameters or module._buffers or not takes_one_input(module):
        return None
    linears, acts, dropouts = {}, {}, []
    for name, child in module.named_children():
        projection = projection_of(child)
        if projection is not None:
            linears[name] = projection
        elif isinstance(child, nn.Identity) or type(child).forward is nn.Dropout.forward:
            dropouts.append(name)
        else:
            kind = activation.flavour_of(child)
            if kind is None:
                return None
            acts[name] = kind.function
    # A child under two names would be tried as two.
    several = len(linears) + len(dropouts) + len(acts) != sum(c is not None for c in module._modules.values())
    if len(acts) > 1 or len(dropouts) > 2 or not 1 <= len(linears) <= 3 or several:
        return None
    act, functions = next(iter(acts.items()), (None, None))
    return Parts(
        linears=linears,
        act=act,
        functions=tuple(activation.KNOWN) if functions is None else (functions,),
        dropouts=tuple(dropouts),
    )


def readings(
    orders: Iterator[tuple[str, ...]], parts: Parts
) -> Iterator[tuple[tuple[str, ...], str, tuple[str | None, str | None]]]:
    """Each order of the Linears with each activation and each place of the dropouts."""
    for order in orders:
        for function in parts.functions:
            for places in parts.places():
                yield order, function, places


class _Marker(nn.Module):
    """In a dropout's place: what it does tells where it stands. Always on, as it is asked whether it drops."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.p, self.number = 1.0, number

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.5 + self.number) + 0.25


def computes(
    module: nn.Module,
    parts: Parts,
    raising: tuple[str | None, ...],
    wide: int,
    lowering: str | None,
    forward: Callable[..., Any],
) -> bool:
    """Whether a copy with tiny Linears does as ``forward``, evaluating and training.

    Args:
        raising: the Linears before the activation; wide: what they give.
        lowering: the Linear after it; None where there is none.
    """

    def claim(trains: bool) -> bool:
        double = _tiny(module, parts, raising, wide, lowering)
        double.training = trains
        x = random_like((2, 3, MODEL), generator()) - 1.0
        return same(run(double, x.clone()), forward(double, x))

    # A dropout that the module draws as a function is seen where it trains alone.
    return holds(lambda: claim(False)) and holds(lambda: claim(True))


def casts_to_weight(module: nn.Module, parts: Parts, raising: tuple[str | None, ...], wide: int, lowering: str) -> bool:
    """Whether the last Linear's input gets its weight's dtype; torch's own Linear raises on another."""

    def claim() -> bool:
        double = _tiny(module, parts, raising, wide, lowering)
        double.get_submodule(lowering).bfloat16()
        given = run(double, random_like((2, 3, MODEL), generator()))
        return isinstance(given, Tensor) and given.dtype == torch.bfloat16

    return holds(claim)


def _tiny(
    module: nn.Module, parts: Parts, raising: tuple[str | None, ...], wide: int, lowering: str | None
) -> nn.Module:
    """A stand-in whose Linears are tiny, so that even the largest MLP is tried in microseconds."""
    source = generator()
    children: dict[str, nn.Module] = {}
    for name, child in module.named_children():  # in the module's order, which a Sequential goes by
        if name in raising:
            children[name] = tiny_projection(child, parts.linears[name], MODEL, wide, source)
        elif name == lowering:
            children[name] = tiny_projection(child, parts.linears[name], MIDDLE, MODEL, source)
        elif name in parts.dropouts:
            children[name] = _Marker(parts.dropouts.index(name))
        else:
            children[name] = stand_in(child)
    double = stand_in(module, children)
    if lowering is not None:
        down = parts.linears[lowering]
        for name, value in vars(double).items():
            # A forward may read its widths from the module.
            if type(value) is int and value in (down.wide_in, down.wide_out):
                double.__dict__[name] = MIDDLE if value == down.wide_in else MODEL
    return double
