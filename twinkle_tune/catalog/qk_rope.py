"""Queries and keys that are normed and then turned by their places, found in the graph of an attention.

Qwen3, Gemma 3 and others norm each head before the rotary embedding. Neither a layer nor a function is the two: the
norms are layers, the embedding a function, and between them lies a transpose. The piece holds both norms and calls the
function, whatever stands under its name then.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from twinkle_tune.catalog import rms_norm
from twinkle_tune.catalog.functions import parameters_of
from twinkle_tune.catalog.norm import NormFlavour
from twinkle_tune.catalog.norm_node import How, rms_normed
from twinkle_tune.catalog.probe import holds
from twinkle_tune.catalog.recognise import flavour_of
from twinkle_tune.catalog.recompute import is_bare
from twinkle_tune.catalog.rotary import casts_back, is_rotary, rotate, rotate_in_place, turns
from twinkle_tune.graph.match import Match
from twinkle_tune.graph.pattern import Place
from twinkle_tune.graph.trace import Traced
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource

QK_ROPE = "QKNormRope"
"""The slot's name."""
_NORMS = ("q_norm", "k_norm")


class QKNormRope(nn.Module):
    """The piece.

    Attributes:
        rotary: the function, of q, k, cos and sin.
        transposed: whether heads and places change places (dimensions 1 and 2) after the norms.
    """

    transposed: bool

    def __init__(self, rotary: Callable[..., Any], transposed: bool) -> None:
        super().__init__()
        self.rotary, self.transposed = rotary, transposed

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        """q and k (batch, places, heads, width) or with heads first, cos and sin (batch, places, width), to q and k."""
        parts = self._modules
        return self.rotary(*self.placed(parts["q_norm"](q), parts["k_norm"](k)), cos, sin)  # type: ignore[misc]

    def placed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Both with heads first."""
        return (q.transpose(1, 2), k.transpose(1, 2)) if self.transposed else (q, k)


def find(traced: Traced) -> tuple[Place, ...]:
    """Where a graph norms q and k by layers, and turns them right then by one function."""
    order = {node: number for number, node in enumerate(traced.graph.nodes)}
    return tuple(place for node in order if (place := _at(traced, node, order)) is not None)


def may_hold(module: nn.Module) -> bool:
    """Whether a module has two norms among its children: only there a graph is looked for."""
    return sum(_is_norm(child) for child in module.children()) >= 2


def contestants(piece: nn.Module, device: str) -> list[Candidate]:
    """Candidates for a piece whose function turns halves."""
    rotary: Callable[..., Any] = piece.rotary  # type: ignore[assignment]
    if not holds(lambda: turns(rotary, rotate)):
        return []
    of_q, of_k = (_flavour(piece._modules[name]) for name in _NORMS)
    narrow = holds(lambda: casts_back(rotary))
    made = {"torch.rms_norm": _fused(of_q, of_k, narrow), "torch.node": _as_node(of_q, of_k, narrow)}
    return [Candidate(name=name, source=ImplSource(kind="torch", impl=impl)) for name, impl in made.items()]


def _at(traced: Traced, node: fx.Node, order: dict[fx.Node, int]) -> Place | None:
    if node.op != "call_function" or len(node.args) != 4 or node.kwargs or len(node.users) != 2:
        return None
    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    if not is_rotary(parameters_of(target)):
        return None
    outputs = sorted(node.users, key=lambda user: str(user.args[1:]))
    if [(user.target, user.args[1:]) for user in outputs] != [(operator.getitem, (0,)), (operator.getitem, (1,))]:
        return None
    sides = [_side(traced, side) for side in node.args[:2]]
    if sides[0] is None or sides[1] is None or len(sides[0]) != len(sides[1]):
        return None
    norms = [side[0] for side in sides if side]
    nodes = {node, *outputs, *sides[0], *sides[1]}
    match = Match(
        nodes=tuple(sorted(nodes, key=order.__getitem__)),
        inputs=(norms[0].args[0], norms[1].args[0], *node.args[2:]),
        outputs=tuple(outputs),
        modules={name: str(norm.target) for name, norm in zip(_NORMS, norms, strict=True)},
    )
    return Place(name=QK_ROPE, match=match, prototype=QKNormRope(target, len(sides[0]) == 2))


def _side(traced: Traced, node: Any) -> tuple[fx.Node, ...] | None:
    """The norm, and the transpose after it if there is one."""
    after: tuple[fx.Node, ...] = ()
    if isinstance(node, fx.Node) and node.op == "call_method" and node.target == "transpose":
        if sorted(map(str, node.args[1:])) != ["1", "2"] or node.kwargs or len(node.users) != 1:
            return None
        after, node = (node,), node.args[0]
    is_call = isinstance(node, fx.Node) and node.op == "call_module" and len(node.args) == 1 and not node.kwargs
    if not is_call or len(node.users) != 1 or not _is_norm(traced.module.get_submodule(str(node.target))):
        return None
    return (node, *after)


def _is_norm(module: nn.Module) -> bool:
    found = flavour_of(module)
    return found is not None and found[0].name == "RMSNorm"


def _flavour(norm: nn.Module | None) -> NormFlavour:
    assert norm is not None
    found = flavour_of(norm)
    assert found is not None
    return found[1]  # type: ignore[return-value]


def _turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, narrow: bool) -> tuple[Tensor, Tensor]:
    turned = rotate if torch.is_grad_enabled() else rotate_in_place
    made_q, made_k = turned(q, k, cos, sin, 1)
    return (made_q.to(q.dtype), made_k.to(k.dtype)) if narrow else (made_q, made_k)


def _fused(of_q: NormFlavour, of_k: NormFlavour, narrow: bool) -> Callable[..., Any]:
    """torch's own norm for both, and few operations for the turn."""
    norm_q, norm_k = (rms_norm.fused_rms_norm(*_settings(each)) for each in (of_q, of_k))

    def forward(self: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        parts = self._modules
        normed_q, normed_k = self.placed(norm_q(parts["q_norm"], q), norm_k(parts["k_norm"], k))
        return _turned(normed_q, normed_k, cos, sin, narrow)

    return forward


def _as_node(of_q: NormFlavour, of_k: NormFlavour, narrow: bool) -> Callable[..., Any]:
    """Each norm one node of autograd."""

    def forward(self: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        if not is_bare(q, k, cos, sin, *self.parameters()):
            return type(self).forward(self, q, k, cos, sin)
        parts = self._modules
        normed_q, normed_k = self.placed(_noded(of_q, parts["q_norm"], q), _noded(of_k, parts["k_norm"], k))
        return _turned(normed_q, normed_k, cos, sin, narrow)

    return forward


def _noded(flavour: NormFlavour, norm: Any, x: Tensor) -> Tensor:
    weight = norm._parameters[flavour.weight] if flavour.weight else None
    return rms_normed(x, weight, How.of(flavour, getattr(norm, flavour.eps), x.dtype))


def _settings(flavour: NormFlavour) -> tuple[Any, ...]:
    return flavour.weight, flavour.eps, flavour.offset, flavour.casts_last, flavour.to_weight
