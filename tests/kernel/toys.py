"""A small model, kernels that show in the output that they ran, and profiles of the model made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tests.report import fabricate
from twinkle_tune.environment import current_environment
from twinkle_tune.kernel import Registry, register_external_layer, register_function_kernel, register_layer_kernel
from twinkle_tune.kernel.find import contestants
from twinkle_tune.mode import Mode
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.outcome import Selection, Trial
from twinkle_tune.profile.schema import Contest, ModelFacts, Profile
from twinkle_tune.slot import ORIGINAL, Slot, SlotKind
from twinkle_tune.source.hub import commit_of
from twinkle_tune.workload import Workload, observe, target_of

Forward = Callable[..., Any]


class Norm(nn.Module):
    """An RMSNorm of the usual form."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of the last dimension ``width``, normed and weighted."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Layer(nn.Module):
    """Two norms of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.up = Norm(8), Norm(16), nn.Linear(8, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., 8) to (..., 8)."""
        out: torch.Tensor = self.wide(self.up(self.narrow(x)))
        return out[..., :8]


class Model(nn.Module):
    """A stack."""

    layers: Any

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., 8) to (..., 8)."""
        for layer in self.layers:
            x = layer(x)
        return x


def norms(model: nn.Module) -> dict[str, Norm]:
    """The norms of a model, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Norm)}


def plus_one(self: Norm, x: torch.Tensor) -> torch.Tensor:
    """The norm plus one."""
    return Norm.forward(self, x) + 1


def plus_two(self: Norm, x: torch.Tensor) -> torch.Tensor:
    """The norm plus two."""
    return Norm.forward(self, x) + 2


def inputs(rows: int, width: int = 8) -> torch.Tensor:
    """(rows, width), the same at each call."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))


def added(module: nn.Module, rows: int) -> float:
    """What a norm's kernel adds to it at a row count; 0.0 for the original."""
    x = inputs(rows, _width(module))
    with torch.no_grad():
        return round(float((module(x) - Norm.forward(module, x)).mean()), 4)  # type: ignore[arg-type]


def _width(module: nn.Module) -> int:
    weight = getattr(module, "weight", None)
    return weight.shape[0] if isinstance(weight, torch.Tensor) else 8


def registry(*impls: Forward, mode: object = None) -> Registry:
    """A registry in which some functions are registered as kernels of the norms."""
    made = Registry()
    register_external_layer(Norm, "Norm", registry=made)
    for impl in impls:
        register_layer_kernel("Norm", layer_impl=impl, device="cpu", mode=mode, registry=made)
    return made


def function_registry(target_module: str, func_name: str, *impls: Forward) -> Registry:
    """A registry in which some functions are registered for another one."""
    made = Registry()
    for impl in impls:
        register_function_kernel(func_name=func_name, target_module=target_module, func_impl=impl, registry=made)
    return made


def layer_contest(
    model: nn.Module,
    paths: Sequence[str],
    rows: int,
    winner: str,
    known: Registry,
    slot: str = "Norm",
    grad: bool = False,
) -> Contest:
    """A contest of the layers at some paths, all alike, that a candidate won at a row count."""
    module = model.get_submodule(paths[0])
    target = target_of(type(module))
    place = Slot(name=slot, kind=SlotKind.LAYER, target=target)
    with torch.set_grad_enabled(grad):
        workload = observe(target, (inputs(rows, _width(module)),), {}, module)
    occurrence = Occurrence(slot=place, instances=((paths[0], module),))
    return _contest(occurrence, workload, known, winner, tuple(paths))


def function_contest(
    target: str, function: Forward, args: tuple[Any, ...], winner: str, known: Registry, **kwargs: Any
) -> Contest:
    """A contest of a function, called in some way, that a candidate won."""
    slot = Slot(name=target.replace(":", "."), kind=SlotKind.FUNCTION, target=target)
    return _contest(Occurrence(slot=slot, function=function), observe(target, args, kwargs), known, winner, ())


def _trials(occurrence: Occurrence, known: Registry) -> tuple[Trial, ...]:
    return tuple(
        Trial(
            candidate=candidate.name,
            source=candidate.source.kind,
            digest=candidate.source.digest(occurrence.slot, occurrence.original),
            outcome=fabricate.measurement(10.0, 11.0, 12.0),
            commit=commit_of(candidate.source),
        )
        for candidate in contestants(occurrence, "cpu", Mode.INFERENCE, known)
    )


def _contest(
    occurrence: Occurrence, workload: Workload, known: Registry, winner: str, instances: tuple[str, ...]
) -> Contest:
    if winner == ORIGINAL:
        selection = Selection(winner=winner, rounds=3, reason="no candidate was clearly faster")
    else:
        selection = Selection(winner=winner, ratio=0.8, low=0.7, high=0.9, rounds=3, reason=f"{winner} was faster")
    made = fabricate.contest(*_trials(occurrence, known), selection=selection)
    return replace(made, slot=occurrence.slot, workload=workload, instances=instances)


ANY_MODEL = ModelFacts(name="any", target="torch.nn.modules.module:Module", parameters=1, dtype="float32")


def profile(contests: Iterable[Contest], **changes: Any) -> Profile:
    """A profile of this machine's CPU, and of any model: each one is a module."""
    made = {"environment": current_environment("cpu"), "model": ANY_MODEL, **changes}
    return fabricate.profile(*contests, **made)


class NormedRows(torch.utils.data.Dataset[torch.Tensor]):
    """Rows that a bound layer normed: here, for who takes them out of a pickle imports the rest of the file."""

    def __init__(self, layer: nn.Module) -> None:
        """Of this layer."""
        self.layer = layer

    def __len__(self) -> int:
        """Four."""
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        """One of them."""
        with torch.no_grad():
            out: torch.Tensor = self.layer(inputs(4))[index]
        return out
