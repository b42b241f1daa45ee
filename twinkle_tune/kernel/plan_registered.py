"""What is bound without a profile: the kernel that was registered last for each slot."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from twinkle_tune.catalog.recognise import layer_name
from twinkle_tune.errors import TuneError
from twinkle_tune.kernel.function import choose_functions
from twinkle_tune.kernel.patch import Binding, replaced_by_another
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode
from twinkle_tune.slot import Candidate, Implementation, Slot, SlotKind
from twinkle_tune.workload import target_of


def plan_registered(model: nn.Module | None, device: str, mode: Mode, registry: Registry) -> Plan:
    """Without a profile: the kernel registered last for each slot."""
    layers, stale = [], []
    loaded: dict[tuple[str, str], Implementation | str] = {}
    for path, module in () if model is None else model.named_modules():
        name = _registered_name(module, registry)
        if name is None:
            continue
        if replaced_by_another(module):
            stale.append(f"{name} {path}: its forward was replaced on the instance by another; kernelize before that")
            continue
        slot = Slot(name=name, kind=SlotKind.LAYER, target=target_of(type(module)))
        fitting = [c for c in registry.layer(name) if c.competes(device, mode)]
        if (name, slot.target) not in loaded:
            loaded[name, slot.target] = _load_last(slot, module, registry.layer(name), device, mode)
        found = loaded[name, slot.target]
        if isinstance(found, str):
            stale.append(found)
        else:
            binding = Binding(slot=name, path=path, candidate=fitting[-1].name, rows="all", is_checked=False)
            layers.append((module, found.call, binding))
    problems: list[TuneError] = []
    chosen = choose_functions(registry, None, device, mode, problems)
    functions = tuple(
        (slot, call, Binding(slot=slot.name, path="", candidate=name, rows="all", is_checked=False))
        for slot, (name, call) in chosen.items()
    )
    return Plan(tuple(layers), functions, (), tuple(dict.fromkeys((*stale, *map(str, problems)))))


def _registered_name(module: nn.Module, registry: Registry) -> str | None:
    """The name whose kernels a module takes without a profile; None if it takes none."""
    named = registry.kernel_name(type(module))
    if named is not None and registry.layer(named):
        return named
    recognised = layer_name(module) if registry.free_layers else None
    return recognised if recognised in registry.free_layers else None


def _load_last(
    slot: Slot, module: nn.Module, registered: Sequence[Candidate], device: str, mode: Mode
) -> Implementation | str:
    fitting = [candidate for candidate in registered if candidate.competes(device, mode)]
    if not fitting:
        return _unregistered(slot.name, registered, device, mode)
    try:
        found = fitting[-1].source.load(slot, type(module).forward)
    except TuneError as error:
        return str(error)
    unfit = found.unfit_for(mode)
    return f"{slot.name}: {fitting[-1].name}: {unfit}" if unfit else found


def _unregistered(name: str, registered: Sequence[Candidate], device: str, mode: Mode) -> str:
    """Why no kernel of a slot competes: the device and the modes that its kernels were registered for."""
    others = sorted({candidate.device or "" for candidate in registered} - {"", device})
    if not others:
        return f"{name}: no kernel is registered for device {device} and mode {mode}; register one"
    default = " (the default of device=)" if others == ["cuda"] else ""
    return (
        f"{name}: its kernels are registered for {' and '.join(others)}{default}, expected {device}; "
        f"pass device={device!r} when you register one"
    )
