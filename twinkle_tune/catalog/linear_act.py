"""A Linear and the activation after it, found in a graph by what is computed there.

Where the two are a layer of their own (BERT), that layer is the slot :mod:`twinkle_tune.catalog.mlp` knows; where they
stand among other children, in an MLP or in a block, no layer is the two of them. What stands in the graph is a piece: a
module of this file that holds the Linear, and the activation where that is a child. The piece is recognised as such a
layer, and takes its candidates.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from twinkle_tune.catalog.activation import KNOWN
from twinkle_tune.catalog.projection import projection_of
from twinkle_tune.catalog.recognise import flavour_of
from twinkle_tune.graph.match import Match
from twinkle_tune.graph.pattern import Place
from twinkle_tune.graph.trace import Traced

LINEAR_ACT = "LinearAct"
"""The slot's name."""
_SLOTS = (LINEAR_ACT, "MLP", "GatedMLP")
_GATES = (operator.mul, torch.mul)
_CALLED: Mapping[Any, str] = {
    F.gelu: "gelu", F.relu: "relu", torch.relu: "relu", F.silu: "silu", F.mish: "mish",
    F.tanh: "tanh", torch.tanh: "tanh", F.sigmoid: "sigmoid", torch.sigmoid: "sigmoid",
}  # fmt: skip
"""Functions that a graph may call, in the words of ``ActivationFlavour``."""


class LinearAct(nn.Module):
    """The piece: ``act(linear(x))``.

    Attributes:
        function: which activation, where the forward calls a function; "" where it is the child ``act``.
    """

    function: str

    def __init__(self, function: str = "") -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        """(..., in) to (..., out)."""
        parts = self._modules
        out = parts["linear"](x)  # type: ignore[misc]
        return KNOWN[self.function](out) if self.function else parts["act"](out)  # type: ignore[misc]


def find(traced: Traced) -> tuple[Place, ...]:
    """Where a graph has an activation of what a Linear gives, if that is read nowhere else.

    Not in a layer that is a slot itself, which has these candidates and more; and not where the activation is
    multiplied by something, as a gate is.
    """
    if _is_slot(traced.module):
        return ()
    return tuple(place for node in traced.graph.nodes if (place := _at(traced, node)) is not None)


def may_hold(module: nn.Module) -> bool:
    """Whether a module has a Linear among its children: only there a graph is looked for."""
    return not _is_slot(module) and any(projection_of(child) is not None for child in module.children())


def _is_slot(module: nn.Module) -> bool:
    found = flavour_of(module)
    return found is not None and found[0].name in _SLOTS


def _at(traced: Traced, node: fx.Node) -> Place | None:
    function = _function(traced, node)
    if function is None or not isinstance(node.args[0], fx.Node):
        return None
    linear = node.args[0]
    is_linear = linear.op == "call_module" and len(linear.args) == 1 and not linear.kwargs and len(linear.users) == 1
    if not is_linear or projection_of(traced.module.get_submodule(str(linear.target))) is None:
        return None
    if any(user.op == "call_function" and user.target in _GATES for user in node.users):
        return None
    modules = {"linear": str(linear.target)}
    if not function:
        modules["act"] = str(node.target)
    match = Match(nodes=(linear, node), inputs=(linear.args[0],), outputs=(node,), modules=modules)
    return Place(name=LINEAR_ACT, match=match, prototype=LinearAct(function))


def _function(traced: Traced, node: fx.Node) -> str | None:
    """Which function a node calls of one input; "" for a child that is an activation; None for anything else."""
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        found = flavour_of(traced.module.get_submodule(str(node.target)))
        return "" if found is not None and found[0].name == "Activation" else None
    if node.op != "call_function" or len(node.args) != 1:
        return None
    name = _CALLED.get(node.target)
    settings = {key: value for key, value in node.kwargs.items() if value is not False}
    if name == "gelu" and settings == {"approximate": "tanh"}:
        return "gelu_tanh"
    return name if settings in ({}, {"approximate": "none"}) else None
