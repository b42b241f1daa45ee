"""The built-in candidates of a slot, beside the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from twinkle_tune.catalog import add_norm, fused_attention, loose, loss, qk_rope, rotary
from twinkle_tune.catalog.add_norm import ADD_NORM
from twinkle_tune.catalog.block import BLOCK
from twinkle_tune.catalog.functions import parameters_of
from twinkle_tune.catalog.linear_act import LINEAR_ACT
from twinkle_tune.catalog.qk_rope import QK_ROPE
from twinkle_tune.catalog.recognise import flavour_of
from twinkle_tune.catalog.written_attention import WRITTEN
from twinkle_tune.mode import Mode
from twinkle_tune.slot import Candidate, Slot
from twinkle_tune.source.compiled import CompileSource

# Under torch.compile the original is compiled with all that is around it.
COMPILE = Candidate(name="compile", source=CompileSource(), modes=frozenset({Mode.INFERENCE, Mode.TRAIN}))


def layer_contestants(name: str, module: nn.Module, device: str) -> tuple[Candidate, ...]:
    """Candidates for a layer, without the original; for one that the catalog does not know ``compile``.

    Args:
        name: the slot's name.
        module: an instance, whose settings decide which candidates fit.
        device: the name of the device it will run on ("cpu", "cuda").
    """
    if name == BLOCK:
        return (*loose.contestants(module), COMPILE)
    found = flavour_of(module)
    if found is None or found[0].name != name:
        return (COMPILE,)
    kind, flavour = found
    return (*kind.contestants(flavour, module, device), COMPILE)


def pattern_contestants(name: str, piece: nn.Module, device: str) -> tuple[Candidate, ...]:
    """Candidates for a piece of a block's graph, without the original.

    Args:
        name: the pattern's; one that the catalog does not know has ``compile`` alone.
        piece: what computes it.
        device: the name of the device it will run on ("cpu", "cuda").
    """
    if name == LINEAR_ACT:
        return layer_contestants(name, piece, device)  # such a layer's
    known = {
        ADD_NORM: add_norm.contestants,
        WRITTEN: fused_attention.contestants,
        QK_ROPE: qk_rope.contestants,
    }
    return (*(known[name](piece, device) if name in known else ()), COMPILE)


def function_contestants(slot: Slot, function: Callable[..., Any], device: str) -> tuple[Candidate, ...]:
    """Candidates for a function, without the original; for one that the catalog does not know ``compile``.

    Args:
        slot: the function's slot.
        function: the original.
        device: the name of the device it will run on ("cpu", "cuda").
    """
    parameters = parameters_of(function)
    if rotary.is_rotary(parameters):
        return (*rotary.contestants(function, parameters, device), COMPILE)
    if loss.is_loss(parameters):
        return (*loss.contestants(function, parameters, device), COMPILE)
    return (COMPILE,)
