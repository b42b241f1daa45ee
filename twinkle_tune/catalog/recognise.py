"""Which slot a module is, by what it holds and computes, never by its class's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from twinkle_tune.catalog import activation, layer_norm, mlp, rms_norm
from twinkle_tune.catalog.functions import functions_of
from twinkle_tune.catalog.probe import PATCHES
from twinkle_tune.slot import Candidate

__all__ = ["LAYERS", "LayerKind", "flavour_of", "functions_of", "layer_name"]

_MOST_CHILDREN = 6
_BOOKKEEPING = frozenset(nn.Module().__dict__) | {"training", "layer_idx"} | PATCHES
_TELLING = (bool, int, float, str, torch.dtype, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """A layer slot that the catalog knows.

    Attributes:
        name: the slot's name.
        flavour_of: how a module is such a layer; None if it is none.
        contestants: candidates for a flavour, given it, the module and the device.
    """

    name: str
    flavour_of: Callable[[nn.Module], object | None]
    contestants: Callable[[Any, nn.Module, str], list[Candidate]]


LAYERS = (
    LayerKind(name="RMSNorm", flavour_of=rms_norm.flavour_of, contestants=rms_norm.contestants),
    LayerKind(name="LayerNorm", flavour_of=layer_norm.flavour_of, contestants=layer_norm.contestants),
    LayerKind(name="GatedMLP", flavour_of=mlp.gated_flavour_of, contestants=mlp.gated_contestants),
    LayerKind(name="MLP", flavour_of=mlp.mlp_flavour_of, contestants=mlp.mlp_contestants),
    LayerKind(name="LinearAct", flavour_of=mlp.linear_act_flavour_of, contestants=mlp.mlp_contestants),
    LayerKind(name="Activation", flavour_of=activation.flavour_of, contestants=activation.contestants),
)
"""In the order in which they are tried. A new layer slot is a file of its own and a line here."""

_known: dict[tuple[object, ...], tuple[LayerKind, object] | None] = {}


def layer_name(module: nn.Module) -> str | None:
    """The slot's name of a module ("RMSNorm", "GatedMLP", ...); None if the catalog knows none.

    Small probes of stand-ins decide; the module itself is never run or changed, nor the random state.
    """
    found = flavour_of(module)
    return found[0].name if found else None


def flavour_of(module: nn.Module) -> tuple[LayerKind, object] | None:
    """The kind of layer that a module is, and its flavour; found once for equal classes and settings."""
    if len(module._modules) > _MOST_CHILDREN or any(child._modules for child in module.children()):
        return None
    key = _key(module)
    if key is None:
        return _tried(module)
    if key not in _known:
        _known[key] = _tried(module)
    return _known[key]


def _tried(module: nn.Module) -> tuple[LayerKind, object] | None:
    for kind in LAYERS:
        flavour = kind.flavour_of(module)
        if flavour is not None:
            return kind, flavour
    return None


def _key(module: nn.Module) -> tuple[object, ...] | None:
    """All that decides what the module is; None where an attribute does not tell (a function, a config)."""
    told: list[object] = []
    for name, part in module.named_modules():
        told += [name, type(part), type(part).forward]
        told += [(own, None if p is None else tuple(p.shape)) for own, p in part._parameters.items()]
        told += list(part._buffers)
        for own, value in vars(part).items():
            if own in _BOOKKEEPING:
                continue
            if not all(isinstance(v, _TELLING) for v in (value if isinstance(value, tuple) else (value,))):
                return None
            told.append((own, type(value), value))
    return tuple(told)
