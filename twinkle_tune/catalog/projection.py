"""Layers that multiply by a matrix and add a bias: torch's Linear, and those that hold the matrix transposed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from twinkle_tune.catalog.probe import generator, holds, random_like, run, same, stand_in, takes_one_input

_IN, _OUT = 5, 7  # of the copy that is tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """x @ weight (or its transpose) + bias, in new memory that nobody else holds where it is plain.

    Attributes:
        wide_in, wide_out: last dimension of the input and of the output.
        weight, bias: names of the parameters; no bias: None.
        transposed: whether the weight is (in, out), as GPT-2's Conv1D has it, and not (out, in) as Linear has it.
        plain: whether that is all that the layer's forward does. A subclass of Linear with a forward of its own is not.
    """

    wide_in: int
    wide_out: int
    weight: str = "weight"
    bias: str | None
    transposed: bool = False
    plain: bool = True


def projection_of(module: nn.Module) -> Projection | None:
    """How the module is such a layer; None if it is none."""
    if isinstance(module, nn.Linear):
        return Projection(
            wide_in=module.in_features,
            wide_out=module.out_features,
            bias=None if module.bias is None else "bias",
            plain=type(module).forward is nn.Linear.forward,
        )
    if module._modules or module._buffers or not takes_one_input(module):
        return None
    named = {name: p for name, p in module._parameters.items() if p is not None}
    matrices = [name for name, p in named.items() if p.dim() == 2]
    vectors = [name for name, p in named.items() if p.dim() == 1]
    if len(matrices) != 1 or len(vectors) > 1 or len(named) != len(matrices) + len(vectors):
        return None
    (weight,), bias = matrices, vectors[0] if vectors else None
    wide_in, wide_out = named[weight].shape
    if bias is not None and named[bias].shape != (wide_out,):
        return None
    found = Projection(wide_in=wide_in, wide_out=wide_out, weight=weight, bias=bias, transposed=True)
    return found if holds(lambda: _multiplies(module, found)) else None


def tiny_projection(
    module: nn.Module, found: Projection, wide_in: int, wide_out: int, source: torch.Generator
) -> nn.Module:
    """A stand-in of other widths, with weights around 0."""
    if not found.transposed:
        linear = nn.Linear(wide_in, wide_out, bias=found.bias is not None, device="meta")
        linear.weight = nn.Parameter(random_like((wide_out, wide_in), source) - 1.0)
        if found.bias is not None:
            linear.bias = nn.Parameter(random_like((wide_out,), source) - 1.0)
        return linear
    shapes = {found.weight: (wide_in, wide_out), found.bias or "": (wide_out,)}
    double = stand_in(module, shapes=shapes)
    for parameter in double._parameters.values():
        if parameter is not None:
            parameter.data -= 1.0
    for name, value in vars(double).items():
        if type(value) is int and value in (found.wide_in, found.wide_out):
            double.__dict__[name] = wide_out if value == found.wide_out else wide_in
    return double


def _multiplies(module: nn.Module, found: Projection) -> bool:
    source = generator()
    double = tiny_projection(module, found, _IN, _OUT, source)
    x = random_like((2, 3, _IN), source) - 1.0
    expected = x @ getattr(double, found.weight)
    return same(run(double, x), expected if found.bias is None else expected + getattr(double, found.bias))
