"""MLPs whose Linears and activation stand in a block among its other children (OPT, BART, Whisper).

There is no layer that is the MLP, so the slot is the block. Its own forward runs, on a twin of the block that shares
all that the block holds; in it the Linears remember what they gave, and the activation writes over its input, or keeps
less of it, where that is the very tensor that a Linear just gave. Where something stands between the two, the
activation runs as it is. That the block reads the Linear's output nowhere else, the numerical check of the whole block
finds out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.catalog import activation
from twinkle_tune.catalog.mlp_forms import OVERWRITES, TRAINS
from twinkle_tune.catalog.projection import Projection, projection_of
from twinkle_tune.catalog.recompute import SLOPES, activated_again, is_bare
from twinkle_tune.mode import Mode
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource

_MOST_CHILDREN = 24
_OWN = ("forward", "_old_forward", "_twinkle_tune_binding")
"""What of an instance its twin goes without: forwards that are bound to the block."""


def contestants(block: nn.Module) -> list[Candidate]:
    """Candidates for a block with Linears and one known activation among its children; none for others."""
    found = _loose_parts(block)
    if found is None:
        return []
    linears, act, function = found
    names = tuple((name, p.weight, p.bias, p.transposed) for name, p in linears.items())
    trains = function in TRAINS
    made = []
    if function in OVERWRITES:
        modes = frozenset({Mode.INFERENCE, Mode.TRAIN} if trains else {Mode.INFERENCE})
        forward = overwriting_forward(tuple(linears), act, OVERWRITES[function], trains)
        made.append(Candidate(name="torch.inplace", source=ImplSource(kind="torch", impl=forward), modes=modes))
    if function in SLOPES and not trains:
        source = ImplSource(kind="torch", impl=recomputing_forward(names, act, function))
        made.append(Candidate(name="torch.recompute", source=source, modes=frozenset({Mode.TRAIN}), alone=True))
    return made


def overwriting_forward(
    linears: tuple[str, ...], act: str, overwrite: Callable[[Tensor], Tensor], trains: bool
) -> Callable[..., Any]:
    """The block's forward with the activation written over a Linear's output.

    Args:
        trains: whether it is right to do so where there are gradients, too.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and not trains):
            return type(self).forward(self, *args, **kwargs)
        last = _Last()
        parts = {name: _Noted(self._modules[name], last) for name in linears}
        return _run_as_twin(self, {**parts, act: _Overwriting(self._modules[act], last, overwrite)}, args, kwargs)

    return forward


def recomputing_forward(
    linears: tuple[tuple[str, str, str | None, bool], ...], act: str, function: str
) -> Callable[..., Any]:
    """The block's forward that keeps a Linear's input for the backward, not the activation's; for training.

    Args:
        linears: name, names of weight and bias, and whether the weight is (in, out).
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return type(self).forward(self, *args, **kwargs)
        last = _Last()
        parts = {
            name: _Noted(self._modules[name], last, weight, bias, transposed)
            for name, weight, bias, transposed in linears
        }
        return _run_as_twin(self, {**parts, act: _Recomputing(self._modules[act], last, function)}, args, kwargs)

    return forward


def _loose_parts(block: nn.Module) -> tuple[dict[str, Projection], str, str] | None:
    """The plain Linears that have another one back, the activation and which one it is."""
    if len(block._modules) > _MOST_CHILDREN:
        return None
    linears: dict[str, Projection] = {}
    acts: dict[str, str] = {}
    for name, child in block.named_children():
        if child._modules:
            continue
        projection = projection_of(child)
        kind = activation.flavour_of(child) if projection is None else None
        if projection is not None and projection.plain:
            linears[name] = projection
        elif kind is not None:
            acts[name] = kind.function
    there = {(p.wide_in, p.wide_out) for p in linears.values()}
    raising = {name: p for name, p in linears.items() if (p.wide_out, p.wide_in) in there}
    if len(acts) != 1 or len(linears) < 2 or not raising:
        return None
    ((act, function),) = acts.items()
    return raising, act, function


class _Last:
    """What a Linear gave last, and what it was given."""

    def __init__(self) -> None:
        self.out: Tensor | None = None
        self.given: tuple[Tensor, Tensor, Tensor | None, bool] | None = None

    def taken(self, x: Tensor) -> bool:
        """Whether x is that very tensor; it counts once."""
        found = self.out is x
        self.out = None if found else self.out
        return found


class _Stand:
    """In a child's place for one call: whatever is asked of it but its call is the child's."""

    def __init__(self, child: Any, last: _Last) -> None:
        self._child, self._last = child, last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._child, name)


class _Noted(_Stand):
    def __init__(
        self, child: Any, last: _Last, weight: str = "", bias: str | None = None, transposed: bool = False
    ) -> None:
        super().__init__(child, last)
        self._how = (weight, bias, transposed)

    def __call__(self, x: Tensor) -> Any:
        out = self._child(x)
        weight, bias, transposed = self._how
        if weight:
            shift = None if bias is None else getattr(self._child, bias)
            self._last.given = (x, getattr(self._child, weight), shift, transposed)
        self._last.out = out
        return out


class _Overwriting(_Stand):
    def __init__(self, child: Any, last: _Last, overwrite: Callable[[Tensor], Tensor]) -> None:
        super().__init__(child, last)
        self._overwrite = overwrite

    def __call__(self, x: Tensor) -> Any:
        return self._overwrite(x) if self._last.taken(x) else self._child(x)


class _Recomputing(_Stand):
    def __init__(self, child: Any, last: _Last, function: str) -> None:
        super().__init__(child, last)
        self._function = function

    def __call__(self, x: Tensor) -> Any:
        given = self._last.given
        if not self._last.taken(x) or given is None:
            return self._child(x)
        source, weight, bias, transposed = given
        if source.dtype != weight.dtype or not is_bare(source, weight, bias, x):
            return self._child(x)
        return activated_again(self._function, transposed, source, weight, bias, x.detach())


def _run_as_twin(block: Any, parts: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The class's forward on a twin with these children; what it sets on itself is the block's afterwards."""
    twin = object.__new__(type(block))
    own = {name: value for name, value in block.__dict__.items() if name not in _OWN}
    twin.__dict__.update(own, _modules={**block._modules, **parts})
    try:
        return type(block).forward(twin, *args, **kwargs)
    finally:
        for name, value in twin.__dict__.items():
            if name != "_modules" and (name not in own or own[name] is not value):
                block.__dict__[name] = value
