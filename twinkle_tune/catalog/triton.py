"""Our own kernels as candidates. CUDA only."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.catalog import op_calls
from twinkle_tune.catalog.mlp_forms import Lowering, Raising, lowered
from twinkle_tune.catalog.norm import HALVES
from twinkle_tune.catalog.op_calls import CallOf
from twinkle_tune.errors import SourceError
from twinkle_tune.ops import launch
from twinkle_tune.ops.op import OpCall
from twinkle_tune.ops.space import Config
from twinkle_tune.slot import Candidate, Implementation, Slot
from twinkle_tune.source.digest import digest_code, digest_folder, digest_text
from twinkle_tune.source.fit import implementation_of
from twinkle_tune.workload import Workload

_OPS = Path(launch.__file__).parent

Maker = Callable[[Config | None], Callable[..., Any]]
"""Of a config (None for the default of each call) the code that can take the original's place."""


def _untold(workload: Workload) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonSource:
    """A place's code around one of our ops.

    Attributes:
        folders: of ``twinkle_tune.ops``: what the op is made of, and its digest.
        make: the code with a config.
        config: of the kernels, by name; None for the op's default for each call's sizes and architecture.
        call_of: of a workload the op's call in it, for which a config can be searched.
    """

    folders: tuple[str, ...]
    make: Maker
    config: Config | None = None
    call_of: CallOf = _untold
    kind: str = "triton"

    def with_config(self, config: Config) -> TritonSource:
        """The same code with a config."""
        return replace(self, config=config)

    def op_call(self, workload: Workload) -> OpCall | None:
        """The op that runs in such a call, with its sizes; None where the workload does not tell them."""
        return self.call_of(workload)

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """The implementation, checked by form. Raises SourceError where Triton is missing."""
        if launch.missing():
            raise SourceError(launch.missing())
        return implementation_of(self.make(self.config), slot, original, f"triton {self.folders[0]}")

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of the op's files, of what all ops share, of the code around it, and of the config."""
        config = "default" if self.config is None else ",".join(f"{k}={v}" for k, v in sorted(self.config.items()))
        return digest_text(digest_code(self.make(None)), *map(_files_digest, ("", *self.folders)), config)


@cache
def _files_digest(folder: str) -> str:
    if folder:
        return digest_folder(_OPS / folder)
    return digest_text(*(path.name + path.read_text(encoding="utf-8") for path in sorted(_OPS.glob("*.py"))))


def offered(device: str) -> bool:
    """Whether our kernels have a place in a contest on this device."""
    return device == "cuda" and not launch.missing()


def candidate(make: Maker, *folders: str, call_of: CallOf = _untold) -> Candidate:
    """The candidate "triton" of a slot, made from these folders of ``twinkle_tune.ops``."""
    return Candidate(name="triton", source=TritonSource(folders=folders, make=make, call_of=call_of), device="cuda")


def rms_norm(weight: str | None, eps: str, offset: float, casts_last: bool, to_weight: bool = False) -> Maker:
    """RMSNorm of a module with these attributes."""

    def make(config: Config | None) -> Callable[..., Any]:
        apply = _op("rms_norm", "rms_norm", offset=offset, casts_last=casts_last)

        def forward(self: Any, x: Tensor) -> Any:
            small = getattr(self, eps)
            small = torch.finfo(x.dtype).eps if small is None else small
            scale = getattr(self, weight) if weight else None
            return _as_weight(apply(x, scale, eps=small, config=config), scale, to_weight)

        return forward

    return make


def add_rms_norm(weight: str | None, eps: str, offset: float, casts_last: bool, to_weight: bool = False) -> Maker:
    """A residual sum and the RMSNorm of these attributes that follows, the piece's child ``norm``."""

    def make(config: Config | None) -> Callable[..., Any]:
        apply = _op("fused_add_rms_norm", "fused_add_rms_norm", offset=offset, casts_last=casts_last)

        def forward(self: Any, x: Tensor, residual: Tensor) -> Any:
            parts = self._modules
            x = parts["dropout"](x) if "dropout" in parts else x
            norm = parts["norm"]
            small = getattr(norm, eps)
            small = torch.finfo(x.dtype).eps if small is None else small
            scale = getattr(norm, weight) if weight else None
            normed, total = apply(x, residual, scale, eps=small, config=config)
            normed = _as_weight(normed, scale, to_weight)
            return (total, normed) if self.gives_sum else normed

        return forward

    return make


def layer_norm(
    weight: str | None, bias: str | None, eps: str, offset: float, casts_last: bool, to_weight: bool = False
) -> Maker:
    """LayerNorm of a module with these attributes."""

    def make(config: Config | None) -> Callable[..., Any]:
        apply = _op("layer_norm", "layer_norm", offset=offset, casts_last=casts_last)

        def forward(self: Any, x: Tensor) -> Any:
            scale = getattr(self, weight) if weight else None
            shift = getattr(self, bias) if bias else None
            return _as_weight(apply(x, scale, shift, eps=getattr(self, eps), config=config), scale, to_weight)

        return forward

    return make


def _as_weight(given: Tensor, scale: Tensor | None, to_weight: bool) -> Tensor:
    """The result in the dtype of a weight in half precision, where the norm gives that."""
    return given.to(scale.dtype) if to_weight and scale is not None and scale.dtype in HALVES else given


_GATED: dict[str, tuple[str, dict[str, str]]] = {
    "silu": ("silu_and_mul", {}),
    "gelu": ("gelu_and_mul", {"approximate": "none"}),
    "gelu_tanh": ("gelu_and_mul", {"approximate": "tanh"}),
}


def has_gated(function: str) -> bool:
    """Whether there is a kernel for a gated MLP with this activation."""
    return function in _GATED


def gated_call(function: str, packed: bool, down: str) -> CallOf:
    """The op's call inside :func:`gated`."""
    op, settings = _GATED[function]
    words = ("packed" if packed else "", "tanh" if settings.get("approximate") == "tanh" else "")
    return op_calls.of_gated(op, "_".join(filter(None, words)), down)


def gated(function: str, gate: str, up: str | None, gate_first: bool, lowering: Lowering) -> Maker:
    """A gated MLP of a module with these children; where one Linear gives gate and up, its output is taken whole."""

    def make(config: Config | None) -> Callable[..., Any]:
        name, settings = _GATED[function]
        apply = _op("act_and_mul", name, gate_first=gate_first, **settings)

        def forward(self: Any, x: Tensor) -> Any:
            left = getattr(self, gate)(x)
            right = getattr(self, up)(x) if up else None
            return lowered(self, apply(left, right, config=config), lowering)

        return forward

    return make


_LINEAR_ACTS = {"gelu": "", "gelu_tanh": "tanh", "relu": "relu", "silu": "silu_no_bias"}
"""The activations that follow a product in one kernel, and the op's variant that is nearest."""


def has_linear_act(function: str) -> bool:
    """Whether there is a kernel for a Linear with this activation."""
    return function in _LINEAR_ACTS


def linear_act_call(raising: Raising) -> CallOf:
    """The op's call inside :func:`linear_act`."""
    variant = "transposed_tanh" if raising.transposed else _LINEAR_ACTS[raising.function]
    return op_calls.of_linear_act(variant, raising.first, raising.weight, raising.transposed)


def linear_act(raising: Raising, lowering: Lowering) -> Maker:
    """A Linear and its activation of a module with these children, and what follows."""
    first, weight, bias = raising.first, raising.weight, raising.bias
    function, transposed = raising.function, raising.transposed

    def make(config: Config | None) -> Callable[..., Any]:
        apply = _op("linear_act", "linear_act", function=function, transposed=transposed)

        def forward(self: Any, x: Tensor) -> Any:
            linear = getattr(self, first)
            shift = None if bias is None else getattr(linear, bias)
            return lowered(self, apply(x, getattr(linear, weight), shift, config=config), lowering)

        return forward

    return make


def _op(folder: str, name: str, **settings: Any) -> Callable[..., Any]:
    """The function of an op with its settings; imported when a candidate is loaded, its kernels at the first call."""
    return partial(getattr(importlib.import_module(f"twinkle_tune.ops.{folder}.op"), name), **settings)
