"""What is bound without a profile: what was registered here, else what the mapping of ``kernels`` has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from twinkle_tune.catalog.recognise import layer_name
from twinkle_tune.device import capability
from twinkle_tune.errors import TuneError
from twinkle_tune.kernel.asked import Asked
from twinkle_tune.kernel.function import choose_functions
from twinkle_tune.kernel.functions import original_function
from twinkle_tune.kernel.mappings import (
    is_mapped,
    mapped,
    mapped_modes,
    may_take_kernels,
    named_functions,
    why_not_mapped,
)
from twinkle_tune.kernel.no_backward import function_not_in_training, not_in_training
from twinkle_tune.kernel.patch import Binding, replaced_by_another
from twinkle_tune.kernel.plan import Kept, Plan
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode
from twinkle_tune.slot import CONVERTS, Candidate, Implementation, Slot, SlotKind, closest
from twinkle_tune.workload import target_of

Call = Callable[..., Any]


@dataclass(slots=True)
class _Found:
    """What was found so far: Plan's fields, and each kernel loaded once for a class."""

    layers: list[tuple[nn.Module, Call, Binding]] = field(default_factory=list)
    kept: dict[Kept, None] = field(default_factory=dict)
    stale: dict[str, None] = field(default_factory=dict)
    loaded: dict[tuple[str, str], tuple[str, Implementation] | str | Kept] = field(default_factory=dict)


def plan_registered(model: nn.Module | None, asked: Asked) -> Plan:
    """Without a profile: for each slot the closest of what is registered here, else of what the mapping has.

    ``kept`` are layers and functions that are named for kernels and have none; ``stale`` those whose kernel does not
    serve.
    """
    found = _Found()
    for path, module in () if model is None else model.named_modules():
        _plan_layer(path, module, asked, found)
    functions = _plan_functions(model, asked, found)
    return Plan(tuple(found.layers), functions, tuple(found.kept), tuple(found.stale))


def _plan_layer(path: str, module: nn.Module, asked: Asked, found: _Found) -> None:
    name = _name(module, asked.registry)
    if name is None:
        return
    if replaced_by_another(module):
        found.stale[f"{name} {path}: its forward was replaced on the instance by another; kernelize before that"] = None
        return
    slot = Slot(name=name, kind=SlotKind.LAYER, target=target_of(type(module)))
    if (name, slot.target) not in found.loaded:
        found.loaded[name, slot.target] = _load_layer(slot, module, asked)
    match found.loaded[name, slot.target]:
        case Kept() as kept:
            found.kept[kept] = None
        case str(reason):
            found.stale[reason] = None
        case candidate, implementation:
            binding = Binding(slot=name, path=path, candidate=candidate, rows="all", is_checked=False)
            found.layers.append((module, implementation.call, binding))


def _name(module: nn.Module, registry: Registry) -> str | None:
    """The name whose kernels a module takes without a profile; None if it takes none."""
    named = registry.kernel_name(type(module))
    if named is not None and (registry.layer(named) or is_mapped(named)):
        return named if may_take_kernels(module) else None
    recognised = layer_name(module) if registry.free_layers else None
    if recognised in registry.free_layers:
        return recognised
    if named is None or _of_transformers(target_of(type(module))) or not may_take_kernels(module):
        return None
    return named


def _of_transformers(target: str) -> bool:
    """Whether transformers named it: for its own switch, so that a name without a kernel is nobody's mistake here."""
    return target.startswith("transformers.")


def _load_layer(slot: Slot, module: nn.Module, asked: Asked) -> tuple[str, Implementation] | str | Kept:
    original = type(module).forward
    candidate = _choose(slot.name, asked.registry.layer(slot.name), asked)
    if not isinstance(candidate, Candidate):
        return candidate
    try:
        made = candidate.source.load(slot, original)
    except TuneError as error:
        return str(error)
    if lacking := made.lacks(asked.needs):
        return f"{slot.name}: {candidate.name}: {lacking}"
    if made.converts:
        return (
            f"{slot.name}: {candidate.name}: {CONVERTS}, and is bound only where it was compared with the "
            "original; profile the model, and pass profile="
        )
    if not made.has_backward and not asked.also_in_training:
        made = replace(made, call=not_in_training(made.call, original, f"{slot.name}: {candidate.name}"))
    return candidate.name, made


def _choose(name: str, registered: Sequence[Candidate], asked: Asked) -> Candidate | str | Kept:
    """The kernel for a name, or why there is none: a text where one is there that does not serve."""
    found = closest((each for each in registered if each.is_for(asked.device)), asked.mode)
    for candidate in (found,) if found is not None else mapped(name, asked.device, asked.mode):
        return candidate
    if registered:
        return _unregistered(name, registered, asked.device, asked.mode)
    modes = mapped_modes(name, asked.device)
    if modes:
        return f"{name}: the kernel mapping has kernels for {modes}, which do not run in mode {asked.mode}; map one"
    return Kept(slot=name, reason=why_not_mapped(name, asked.device))


def _unregistered(name: str, registered: Sequence[Candidate], device: str, mode: Mode) -> str:
    """Why no kernel of a slot competes: the device and the modes that its kernels were registered for."""
    here = [candidate for candidate in registered if candidate.device in (None, device)]
    limits = [candidate.capabilities for candidate in here if not candidate.is_for(device)]
    if limits and len(limits) == len(here):
        ranges = " and ".join(f"{least} to {most}" for least, most in filter(None, limits))
        return (
            f"{name}: its kernels are registered for compute capability {ranges}, this device has "
            f"{capability(device)}; register one for it"
        )
    others = sorted({candidate.device or "" for candidate in registered} - {"", device})
    if here or not others:
        return f"{name}: no kernel is registered for device {device} and mode {mode}; register one"
    default = " (the default of device=)" if others == ["cuda"] else ""
    return (
        f"{name}: its kernels are registered for {' and '.join(others)}{default}, expected {device}; "
        f"pass device={device!r} when you register one"
    )


def _plan_functions(model: nn.Module | None, asked: Asked, found: _Found) -> tuple[tuple[Slot, Call, Binding], ...]:
    problems: list[TuneError] = []
    chosen = choose_functions(asked.registry, None, asked.device, asked.mode, problems, asked.needs)
    found.stale |= dict.fromkeys(map(str, problems))
    for name, slot in () if model is None else named_functions(model):
        if not is_mapped(name) and (slot is None or _of_transformers(slot.target)):
            continue
        if slot is None:
            found.kept[Kept(slot=name, reason="the file of its class has no name for the function")] = None
        elif slot not in chosen and not asked.registry.function(*slot.target.split(":")):
            candidate = _choose(name, (), asked)
            if isinstance(candidate, Candidate):
                loaded = _load_function(slot, candidate, asked)
                if isinstance(loaded, str):
                    found.stale[loaded] = None
                else:
                    chosen[slot] = candidate.name, loaded
            elif isinstance(candidate, Kept):
                found.kept[candidate] = None
            else:
                found.stale[candidate] = None
    return tuple(
        (
            slot,
            made.call
            if made.has_backward or asked.also_in_training
            else function_not_in_training(made.call, original_function(slot.target), f"{slot.name}: {name}"),
            Binding(slot=slot.name, path="", candidate=name, rows="all", is_checked=False),
        )
        for slot, (name, made) in chosen.items()
    )


def _load_function(slot: Slot, candidate: Candidate, asked: Asked) -> Implementation | str:
    try:
        made = candidate.source.load(slot, original_function(slot.target))
    except TuneError as error:
        return str(error)
    lacking = made.lacks(asked.needs)
    return f"{slot.name}: {candidate.name}: {lacking}" if lacking else made
