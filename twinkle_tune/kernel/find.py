"""Which slots a model has, and who competes for each."""

from __future__ import annotations

from torch import nn

from twinkle_tune.catalog.attention import attention_contestants, attention_place
from twinkle_tune.catalog.block import BLOCK, blocks_of
from twinkle_tune.catalog.contestants import function_contestants, layer_contestants, pattern_contestants
from twinkle_tune.catalog.experts import EXPERTS, experts_contestants, is_experts
from twinkle_tune.catalog.head import head_contestants, head_place
from twinkle_tune.catalog.recognise import functions_of, layer_name
from twinkle_tune.errors import RegistrationError
from twinkle_tune.kernel.functions import original_function
from twinkle_tune.kernel.mappings import (
    add_under_own_name,
    is_mapped,
    kernel_name_of,
    mapped,
    mapped_functions,
    may_take_kernels,
)
from twinkle_tune.kernel.registry import Registry, default_registry
from twinkle_tune.mode import Mode
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.slot import ATTENTION, HEAD, ORIGINAL, Candidate, Slot, SlotKind
from twinkle_tune.source.direct import OriginalSource
from twinkle_tune.workload import target_of

_ORIGINAL = Candidate(name=ORIGINAL, source=OriginalSource())
_NO_SWITCH = (
    "attention: {} has no attention implementation that can be switched, expected a model of transformers with one "
    "configuration; leave attention out"
)
_NO_HEAD = (
    "head: {} has no head and loss that can be one, expected a causal language model of transformers whose lm_head is "
    "a Linear without bias; leave the head out"
)


def find_slots(
    model: nn.Module, registry: Registry | None = None, *, attention: bool = False, head: bool = False
) -> tuple[Occurrence, ...]:
    """The slots of a model: layers that are registered, mapped or recognised, then functions; each with its instances.

    Instances of one class and one slot name are one occurrence, in the model's order.

    Args:
        attention: whether a transformers model's attention is a slot too (:mod:`twinkle_tune.catalog.attention`).
        head: whether a language model's last layer and loss are one slot too (:mod:`twinkle_tune.catalog.head`).

    Raises:
        RegistrationError: a function was registered for a module that cannot be imported or lacks it; the attention
            or the head is asked for, and the model has no switch, or no such head and loss; both are asked for.
    """
    registry = registry or default_registry
    instances: dict[Slot, list[tuple[str, nn.Module]]] = {}
    blocks = blocks_of(model)
    for path, module in model.named_modules():
        name = slot_name(module, registry) or (BLOCK if module in blocks else None)
        # A class without a forward is no layer: torch.compile's wrapper has one on each instance, around the layer's.
        if name is not None and type(module).forward is not nn.Module.forward:
            slot = Slot(name=name, kind=SlotKind.LAYER, target=target_of(type(module)))
            instances.setdefault(slot, []).append((path, module))
    if attention and head:
        raise RegistrationError(
            "attention, head: got both, expected one of them: each is a forward of the same module; profile them apart"
        )
    for name, wanted, place_of, problem in (
        (ATTENTION, attention, attention_place, _NO_SWITCH),
        (HEAD, head, head_place, _NO_HEAD),
    ):
        place = place_of(model) if wanted else None
        if place is not None:
            instances[Slot(name=name, kind=SlotKind.LAYER, target=target_of(type(place[1])))] = [place]
        elif wanted:
            raise RegistrationError(problem.format(type(model).__name__))
    layers = tuple(Occurrence(slot=slot, instances=tuple(found)) for slot, found in instances.items())
    functions = {slot.target: slot for slot in (*functions_of(model), *mapped_functions(model))}
    for module_name, function in registry.functions:
        target = f"{module_name}:{function}"
        functions.setdefault(target, Slot(name=f"{module_name}.{function}", kind=SlotKind.FUNCTION, target=target))
    return layers + tuple(Occurrence(slot=slot, function=original_function(slot.target)) for slot in functions.values())


def contestants(
    occurrence: Occurrence, device: str, mode: Mode, registry: Registry | None = None
) -> tuple[Candidate, ...]:
    """Who competes for a slot on a device in a mode: the original, the catalog's, the registered, the mapped.

    Of a layer the first instance is asked. Mapped are kernels that were registered with the ``kernels`` package
    (:mod:`twinkle_tune.kernel.mappings`).
    """
    slot, module, registry = occurrence.slot, occurrence.module, registry or default_registry
    found, kernel_name = [_ORIGINAL], None
    if module is not None and slot.kind is SlotKind.PATTERN:
        found += (*pattern_contestants(slot.name, module, device), *registry.pattern(slot.name))
    elif module is not None and slot.name == ATTENTION:
        found += attention_contestants(module, device)
    elif module is not None and slot.name == HEAD:
        found += head_contestants(module, device)
    elif module is not None:
        recognised = layer_name(module)
        found += layer_contestants(recognised or slot.name, module, device)
        for name in dict.fromkeys((slot.name, registry.kernel_name(type(module)), recognised)):
            found += registry.layer(name) if name is not None else ()
        found += experts_contestants(module) if slot.name == EXPERTS else ()
        kernel_name = _mapped_name(module, registry)
    elif occurrence.function is not None:
        found += function_contestants(slot, occurrence.function, device)
        module_name, _, name = slot.target.partition(":")
        found += registry.function(module_name, name)
        kernel_name = kernel_name_of(occurrence.function)
    for candidate in mapped(kernel_name, device, mode) if kernel_name is not None else ():
        add_under_own_name(found, candidate)
    by_name = {candidate.name: candidate for candidate in reversed(found) if candidate.competes(device, mode)}
    return tuple(by_name[name] for name in dict.fromkeys(c.name for c in found) if name in by_name)


def slot_name(module: nn.Module, registry: Registry) -> str | None:
    """The slot that a module is: the name that its class is bound to, if a kernel has it, else the catalog's."""
    named = registry.kernel_name(type(module))
    if named is not None and registry.layer(named):
        return named
    return _mapped_name(module, registry) or layer_name(module) or (EXPERTS if is_experts(module) else None)


def _mapped_name(module: nn.Module, registry: Registry) -> str | None:
    # Of the registry, because a subclass inherits its parent's name also where it computes something else.
    named = registry.kernel_name(type(module))
    return named if named is not None and is_mapped(named) and may_take_kernels(module) else None
