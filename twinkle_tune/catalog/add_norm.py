"""A residual sum and the norms beside it, found in a block's graph by what is computed there.

It lies across layers: of ``x = residual + attention(x)`` and ``mlp(norm(x))`` no layer is the sum and the norm. The sum
is read again by the next residual, so both are given. There may be a norm (Gemma, GLM4, OLMo2) or a dropout (BERT,
GPT-2) on the way to the sum. What stands in the graph is a piece: a module of this file that holds the block's norms.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from twinkle_tune.catalog import layer_norm, rms_norm, triton
from twinkle_tune.catalog.norm import NormFlavour
from twinkle_tune.catalog.norm_node import How, added_and_normed, rms_normed
from twinkle_tune.catalog.recognise import flavour_of
from twinkle_tune.catalog.recompute import is_bare
from twinkle_tune.graph.match import Match
from twinkle_tune.graph.pattern import Place
from twinkle_tune.graph.trace import Traced
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource

ADD_NORM = "AddNorm"
"""The slot's name."""
_NORMS = ("RMSNorm", "LayerNorm")
_ADDS = (operator.add, torch.add)


class AddNorm(nn.Module):
    """The piece: ``residual + dropout(before(x))`` and its norm, of which each part but the sum may be missing.

    Attributes:
        gives_sum: whether the sum is read elsewhere, and so is given beside the norm.
    """

    gives_sum: bool

    def __init__(self, gives_sum: bool) -> None:
        super().__init__()
        self.gives_sum = gives_sum

    def forward(self, x: Tensor, residual: Tensor) -> Any:
        """The sum, its norm, or both, in this order."""
        parts = self._modules
        for name in ("before", "dropout"):
            part = parts.get(name)
            x = x if part is None else part(x)
        total = x + residual
        norm = parts.get("norm")
        if norm is None:
            return total
        return (total, norm(total)) if self.gives_sum else norm(total)


def find(traced: Traced) -> tuple[Place, ...]:
    """Where a graph has a sum with a norm after it, or right before it."""
    found: list[Place] = []
    taken: set[fx.Node] = set()
    for node in traced.graph.nodes:
        place = _at(traced, node)
        if place is not None and not taken & set(place.match.nodes):
            taken |= set(place.match.nodes)
            found.append(place)
    return tuple(found)


def may_hold(module: nn.Module) -> bool:
    """Whether a module has a norm among its children: only there a graph is looked for."""
    return any(_is_norm(child) for child in module.children())


def contestants(piece: nn.Module, device: str) -> list[Candidate]:
    """Candidates for a piece with the norms that it holds."""
    flavours = {name: f for name in ("before", "norm") if (f := _flavour(piece._modules.get(name)))}
    made = []
    if not flavours:
        return []
    kinds = {kind for kind, _ in flavours.values()}
    if kinds == {"RMSNorm"}:
        made = [("torch.rms_norm", _with(flavours, _fused_rms)), ("torch.node", _as_node(flavours))]
    elif kinds == {"LayerNorm"}:
        made = [("torch.layer_norm", _with(flavours, _fused_layer))]
    found = [Candidate(name=name, source=ImplSource(kind="torch", impl=impl)) for name, impl in made]
    only = flavours.get("norm")
    if kinds == {"RMSNorm"} and only is not None and len(flavours) == 1 and triton.offered(device):
        found.append(triton.candidate(triton.add_rms_norm(*_settings(only[1])), "fused_add_rms_norm"))
    return found


def _at(traced: Traced, node: fx.Node) -> Place | None:
    is_sum = node.op == "call_function" and node.target in _ADDS and len(node.args) == 2 and not node.kwargs
    if not is_sum or not all(isinstance(arg, fx.Node) for arg in node.args):
        return None
    norm = next((user for user in node.users if _is_call(traced, user, _is_norm)), None)
    leads, x, residual = max(
        ((_leading(traced, one), one, other) for one, other in (node.args, node.args[::-1])),
        key=lambda way: len(way[0]),
    )
    if norm is None and "before" not in leads:
        return None
    gives_sum = norm is not None and len(node.users) > 1
    entry: Any = next(iter(leads.values())).args[0] if leads else x
    named = leads if norm is None else {**leads, "norm": norm}
    match = Match(
        nodes=(*leads.values(), node, *(() if norm is None else (norm,))),
        inputs=(entry, residual),
        outputs=(node,) if norm is None else (node, norm) if gives_sum else (norm,),
        modules={name: str(each.target) for name, each in named.items()},
    )
    return Place(name=ADD_NORM, match=match, prototype=AddNorm(gives_sum))


def _leading(traced: Traced, x: Any) -> dict[str, fx.Node]:
    """The norm and the dropout on the way to the sum, in the order in which they run."""
    found: dict[str, fx.Node] = {}
    for name, test in (("dropout", _is_dropout), ("before", _is_norm)):
        if isinstance(x, fx.Node) and len(x.users) == 1 and _is_call(traced, x, test):
            found = {name: x, **found}
            x = x.args[0]
    return found


def _is_call(traced: Traced, node: fx.Node, test: Callable[[nn.Module], bool]) -> bool:
    is_call = node.op == "call_module" and len(node.args) == 1 and not node.kwargs
    return is_call and test(traced.module.get_submodule(str(node.target)))


def _is_norm(module: nn.Module) -> bool:
    found = flavour_of(module)
    return found is not None and found[0].name in _NORMS


def _is_dropout(module: nn.Module) -> bool:
    return type(module).forward is nn.Dropout.forward


def _flavour(norm: nn.Module | None) -> tuple[str, NormFlavour] | None:
    found = None if norm is None else flavour_of(norm)
    return None if found is None else (found[0].name, found[1])  # type: ignore[return-value]


Flavours = dict[str, tuple[str, NormFlavour]]


def _settings(flavour: NormFlavour) -> tuple[Any, ...]:
    return flavour.weight, flavour.eps, flavour.offset, flavour.casts_last, flavour.to_weight


def _fused_rms(flavour: NormFlavour) -> Callable[..., Any]:
    return rms_norm.fused_rms_norm(*_settings(flavour))


def _fused_layer(flavour: NormFlavour) -> Callable[..., Any]:
    return layer_norm.fused_layer_norm(flavour.weight, flavour.bias, *_settings(flavour)[1:])


def _with(flavours: Flavours, fused: Callable[[NormFlavour], Callable[..., Any]]) -> Callable[..., Any]:
    """A forward with torch's fused norm in the place of each norm."""
    calls = {name: fused(flavour) for name, (_, flavour) in flavours.items()}
    first, second = calls.get("before"), calls.get("norm")

    def forward(self: Any, x: Tensor, residual: Tensor) -> Any:
        parts = self._modules
        if first is not None:
            x = first(parts["before"], x)
        if "dropout" in parts:
            x = parts["dropout"](x)
        total = x + residual
        if second is None:
            return total
        normed = second(parts["norm"], total)
        return (total, normed) if self.gives_sum else normed

    return forward


def _as_node(flavours: Flavours) -> Callable[..., Any]:
    """A forward with each norm, and with it the sum, as one node of autograd."""
    before = flavours["before"][1] if "before" in flavours else None
    after = flavours["norm"][1] if "norm" in flavours else None

    def forward(self: Any, x: Tensor, residual: Tensor) -> Any:
        parts = self._modules
        if x.dtype is not residual.dtype or x.shape != residual.shape or not is_bare(x, residual, *self.parameters()):
            return type(self).forward(self, x, residual)
        if before is not None:
            x = rms_normed(x, *_of(before, parts["before"], x.dtype))
        if "dropout" in parts:
            x = parts["dropout"](x)
        if after is None or x.dtype is not residual.dtype:
            total = x + residual
            if after is None:
                return total
            normed = rms_normed(total, *_of(after, parts["norm"], total.dtype))
        else:
            total, normed = added_and_normed(x, residual, *_of(after, parts["norm"], x.dtype))
        return (total, normed) if self.gives_sum else normed

    return forward


def _of(flavour: NormFlavour, norm: Any, dtype: torch.dtype) -> tuple[Tensor | None, How]:
    weight = norm._parameters[flavour.weight] if flavour.weight else None
    return weight, How.of(flavour, getattr(norm, flavour.eps), dtype)
