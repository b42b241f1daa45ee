"""Kernels with a layout beside them, as transformers' page on writing kernels has them; and layers that they are for.

The rules of a ``conversion_mapping`` are transformers' own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import Chunk, Concatenate, ConversionOps, Interleave, Transpose, WeightConverter
from transformers.core_model_loading import WeightRenaming as Renaming


class Norm(nn.Module):
    """A layer whose width nobody kept."""

    def __init__(self, width: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.linspace(0.5, 1.5, width)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of the last dimension ``width``, normed and weighted."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.weight


class GatedMLP(nn.Module):
    """A layer that keeps its configuration, as those of transformers do."""

    def __init__(self, config: tuple[int, int]) -> None:
        super().__init__()
        self.config, (width, inner) = config, config
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down_proj, self.act_fn = nn.Linear(inner, width, bias=False), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., width) to (..., width)."""
        out: torch.Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """A layer that runs its norm and its MLP one after another, and something around them."""

    def __init__(self, config: tuple[int, int]) -> None:
        super().__init__()
        self.norm, self.mlp = Norm(config[0]), GatedMLP(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., width) to (..., width)."""
        out: torch.Tensor = x + self.mlp(self.norm(x))
        return out


class _Kernel(nn.Module):
    """What a layout gives a kernel's ``self``."""

    variance_epsilon: Any
    scale: Any
    low: Any
    high: Any
    turned: Any
    gate_proj: Any
    up_proj: Any
    gate_up_proj: Any
    down_proj: Any
    act_fn: Any


class Renamed(_Kernel):
    """The norm, which reads its weight as ``scale``."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """As the layer's."""
        out: torch.Tensor = (
            hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.scale
        )
        return out


class RenamedLayout(nn.Module):
    """As the page has it: its constructor takes what the layer's took."""

    conversion_mapping: tuple[Any, ...] = (Renaming("input_layernorm.weight", "input_layernorm.scale"),)

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.scale, self.variance_epsilon = nn.Parameter(torch.ones(width)), eps


class Merged(_Kernel):
    """The MLP with gate and up as one matrix."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer's."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        out: torch.Tensor = self.down_proj(self.act_fn(gate) * up)
        return out


class MergedLayout(nn.Module):
    """Gate above up."""

    conversion_mapping: tuple[Any, ...] = (
        WeightConverter(
            [r"mlp\.gate_proj\.weight", r"mlp\.up_proj\.weight"], "mlp.gate_up_proj.weight", [Concatenate(0)]
        ),
    )

    def __init__(self, config: tuple[int, int]) -> None:
        super().__init__()
        width, inner = config
        self.gate_up_proj, self.down_proj = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.act_fn: nn.Module = nn.SiLU()


class Swapped(_Kernel):
    """As Merged, whose layout has up above gate: wrong."""

    forward = Merged.forward


class SwappedLayout(MergedLayout):
    """Up above gate."""

    conversion_mapping: tuple[Any, ...] = (
        WeightConverter(["up_proj.weight", "gate_proj.weight"], "gate_up_proj.weight", [Concatenate(0)]),
    )


class Transposed(_Kernel):
    """The MLP with its last matrix the other way round."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer's."""
        out: torch.Tensor = (self.act_fn(self.gate_proj(x)) * self.up_proj(x)) @ self.turned
        return out


class TransposedLayout(nn.Module):
    """Gate and up as they are."""

    conversion_mapping: tuple[Any, ...] = (WeightConverter("down_proj.weight", "turned", [Transpose(0, 1)]),)

    def __init__(self, config: tuple[int, int]) -> None:
        super().__init__()
        width, inner = config
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.turned, self.act_fn = nn.Parameter(torch.empty(inner, width)), nn.SiLU()


class Halves(_Kernel):
    """The norm with its weight in two halves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer's."""
        weight = torch.cat([self.low, self.high])
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * weight


class HalvesLayout(nn.Module):
    """Two parameters of one."""

    conversion_mapping: tuple[Any, ...] = (WeightConverter("weight", ["low", "high"], [Chunk(0)]),)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.low, self.high = nn.Parameter(torch.ones(width // 2)), nn.Parameter(torch.ones(width // 2))


class NormMLP(_Kernel):
    """Norm and MLP as one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As both, one after another."""
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.scale
        gate, up = self.gate_up_proj(normed).chunk(2, dim=-1)
        out: torch.Tensor = self.down_proj(self.act_fn(gate) * up)
        return out


class NormMLPLayout(nn.Module):
    """As the page has it: its constructor takes the modules that it stands for."""

    conversion_mapping: tuple[Any, ...] = (
        Renaming("norm.weight", "norm.scale"),
        WeightConverter(["mlp.gate_proj.weight", "mlp.up_proj.weight"], "norm.gate_up_proj.weight", [Concatenate(0)]),
        Renaming("mlp.down_proj.weight", "norm.down_proj.weight"),
    )

    def __init__(self, norm: Norm, mlp: GatedMLP) -> None:
        super().__init__()
        self.variance_epsilon, self.scale = norm.variance_epsilon, nn.Parameter(torch.empty_like(norm.weight))
        width, inner = mlp.gate_proj.in_features, mlp.gate_proj.out_features
        self.gate_up_proj = nn.Linear(width, 2 * inner, bias=False, device=mlp.gate_proj.weight.device)
        self.down_proj, self.act_fn = nn.Linear(inner, width, bias=False), mlp.act_fn


class Forgets(_Kernel):
    """As NormMLP, whose layout leaves one weight where it was."""

    forward = NormMLP.forward


class ForgetsLayout(NormMLPLayout):
    """Without the last rule."""

    conversion_mapping: tuple[Any, ...] = NormMLPLayout.conversion_mapping[:2]


class Doubles(ConversionOps):  # type: ignore[misc]
    """An operation of somebody's own."""

    def convert(self, input_dict: object, *args: object, **kwargs: object) -> object:
        """Never called."""
        raise AssertionError


class Stranger(_Kernel):
    """The norm with a rule that nobody here knows."""

    forward = Renamed.forward


class StrangerLayout(RenamedLayout):
    """By an operation of somebody's own."""

    conversion_mapping: tuple[Any, ...] = (WeightConverter("weight", "scale", [Doubles()]),)


class Interleaved(_Kernel):
    """The norm with a rule of transformers that is not understood."""

    forward = Renamed.forward


class InterleavedLayout(RenamedLayout):
    """By turns."""

    conversion_mapping: tuple[Any, ...] = (WeightConverter("weight", "scale", [Interleave(0)]),)


class Guessed(_Kernel):
    """The norm with a pattern that is no plain name."""

    forward = Renamed.forward


class GuessedLayout(RenamedLayout):
    """Any weight."""

    conversion_mapping: tuple[Any, ...] = (Renaming("(a|b).weight", "scale"),)


class Unfit(_Kernel):
    """The norm with a conversion for other weights."""

    forward = Renamed.forward


class UnfitLayout(nn.Module):
    """It has a bias, which nothing makes."""

    conversion_mapping: tuple[Any, ...] = (Renaming("weight", "scale"),)

    def __init__(self, eps: float = 1.0) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))


class Raises(_Kernel):
    """The norm with a layout that cannot be made."""

    forward = Renamed.forward


class RaisesLayout(nn.Module):
    """Its constructor raises."""

    def __init__(self) -> None:
        raise RuntimeError("no such device")


class Names(_Kernel):
    """The norm, with a layout that has a setting under a name of its own."""

    forward = Renamed.forward


class NamesLayout(nn.Module):
    """A change of the layer's would not reach it."""

    conversion_mapping: tuple[Any, ...] = (Renaming("weight", "scale"),)

    def __init__(self, variance_epsilon: float) -> None:
        super().__init__()
        self.scale, self.eps = nn.Parameter(torch.ones(1)), variance_epsilon


class Makes(_Kernel):
    """The MLP, with a layout that makes an activation of another class than the layer's."""

    forward = Merged.forward


class MakesLayout(MergedLayout):
    """Its settings would not be the layer's."""

    def __init__(self, config: tuple[int, int]) -> None:
        super().__init__(config)
        self.act_fn: nn.Module = Scaling()


class Writes(_Kernel):
    """The norm, which writes on its self."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """As the layer's."""
        self.last = hidden
        return Renamed.forward(self, hidden)  # type: ignore[arg-type]


class WritesLayout(RenamedLayout):
    """As Renamed's."""

    conversion_mapping: tuple[Any, ...] = (Renaming("weight", "scale"),)


class Scaling(nn.Module):
    """An activation with a setting, and one that training decides about."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.drop = 1.0, nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of any form."""
        out: torch.Tensor = self.drop(torch.tanh(x * self.factor))
        return out


class Alone(_Kernel):
    """A kernel for two modules without a layout."""

    forward = NormMLP.forward
