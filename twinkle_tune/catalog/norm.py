"""What the norms have in common: which attributes hold weight and eps, and how the weight is applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from twinkle_tune.catalog.probe import generator, holds, random_like, run, same, stand_in, takes_one_input

HALVES = (torch.float16, torch.bfloat16)
"""The half precisions."""

Formula = Callable[[nn.Module, Tensor, "NormFlavour"], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class NormFlavour:
    """How a norm reads its settings and applies them.

    Attributes:
        weight, bias: names of the parameters; None where it has none.
        eps: name of the attribute.
        offset: what is added to the weight (1.0 where the weight is stored as its distance from one).
        casts_last: whether the result has the input's dtype even where the weight's is wider.
        to_weight: whether a weight in half precision gives its dtype to what it multiplies, also where the input is
            wider (T5).
        wide: the norm's width, last dimension of the input.
    """

    weight: str | None
    bias: str | None
    eps: str
    offset: float
    casts_last: bool = False
    to_weight: bool = False
    wide: int


def norm_flavour(module: nn.Module, formula: Formula) -> NormFlavour | None:
    """The flavour in which the module computes ``formula``; None if it does not."""
    if module._modules or module._buffers or len(module._parameters) > 2 or not takes_one_input(module):
        return None
    for flavour in _readings(module):
        if holds(lambda flavour=flavour: _computes(module, formula, flavour)):  # type: ignore[misc]
            casts_last = holds(lambda flavour=flavour: _gives(module, flavour, torch.bfloat16, torch.float32))  # type: ignore[misc]
            to_weight = holds(lambda flavour=flavour: _gives(module, flavour, torch.float32, torch.bfloat16))  # type: ignore[misc]
            return replace(flavour, casts_last=casts_last, to_weight=to_weight)
    return None


def given_dtype(x: torch.dtype, weight: torch.dtype, casts_last: bool, to_weight: bool) -> torch.dtype:
    """The dtype that a norm gives for an input and a weight of these dtypes."""
    if casts_last:
        return x
    if to_weight and weight in HALVES:
        return weight
    return torch.promote_types(x, weight)


def sample(wide: int) -> Tensor:
    """Input (2, 3, wide) of a probe: one row so small that eps counts, and a mean that is not zero."""
    x = random_like((2, 3, wide), generator())
    x[0, 0] *= 1e-3
    return x


def _readings(module: nn.Module) -> Iterator[NormFlavour]:
    vectors = [name for name, p in module._parameters.items() if p is not None and p.dim() == 1]
    if len(vectors) != sum(p is not None for p in module._parameters.values()):
        return
    wide = next((p.shape[0] for p in module._parameters.values() if p is not None), _stated_width(module))
    pairs: list[tuple[str | None, str | None]] = [(None, None)]
    if len(vectors) == 1:
        pairs = [(vectors[0], None)]
    elif vectors:
        pairs = [(vectors[0], vectors[1]), (vectors[1], vectors[0])]
    for eps in (name for name, value in vars(module).items() if _like_eps(name, value)):
        for weight, bias in pairs:
            for offset in (0.0, 1.0) if weight else (0.0,):
                yield NormFlavour(weight=weight, bias=bias, eps=eps, offset=offset, wide=wide)


def _stated_width(module: nn.Module) -> int:
    shape = getattr(module, "normalized_shape", None)
    return shape[-1] if isinstance(shape, tuple) and shape and isinstance(shape[-1], int) else 16


def _like_eps(name: str, value: object) -> bool:
    if value is None:
        return "eps" in name  # torch's own meaning: the smallest step of the dtype
    return isinstance(value, float) and 0.0 <= value < 0.1


def _computes(module: nn.Module, formula: Formula, flavour: NormFlavour) -> bool:
    double, x = stand_in(module), sample(flavour.wide)
    return same(run(double, x.clone()), formula(double, x, flavour))


def _gives(module: nn.Module, flavour: NormFlavour, dtype: torch.dtype, weights: torch.dtype) -> bool:
    """Whether an input of a dtype gives bfloat16 with weights of another."""
    given = run(stand_in(module).to(weights), sample(flavour.wide).to(dtype))
    return isinstance(given, Tensor) and given.dtype == torch.bfloat16
