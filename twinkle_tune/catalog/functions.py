"""Function slots of a model: functions that its classes call by a name of their Python file.

A class's code looks such a name up in the file that it was written in, so that is where it is replaced, also
where the file got the function by an import.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from twinkle_tune.catalog.loss import is_loss
from twinkle_tune.catalog.rotary import is_rotary
from twinkle_tune.slot import Slot, SlotKind

_FORMS = (is_rotary, is_loss)


def functions_of(model: nn.Module) -> tuple[Slot, ...]:
    """The function slots of a model: its rotary embeddings and, of a transformers model, its loss.

    Looked through is the code of every class in the model, of the functions of the same file that it calls,
    and of the model's ``loss_function``. Nothing is called and nothing imported.
    """
    found: dict[str, Slot] = {}
    seen: set[int] = set()
    for function in _written_for(model):
        for place, name in _called_slots(function, seen):
            target = f"{place}:{name}"
            found[target] = Slot(name=f"{place}.{name}", kind=SlotKind.FUNCTION, target=target)
    return tuple(found.values())


def is_slot(function: Callable[..., Any]) -> bool:
    """Whether a function is by its form one for which the catalog has candidates."""
    return any(form(parameters_of(function)) for form in _FORMS)


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Parameters of a function, also of one that ``kernels`` made a module; none where it does not tell."""
    try:
        return list(
            inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters.values()
        )
    except (TypeError, ValueError):
        return []


def _written_for(model: nn.Module) -> Iterator[FunctionType]:
    """The functions of every class in the model, and its losses."""
    classes = {base: None for module in model.modules() for base in type(module).__mro__}
    for cls in classes:
        if cls.__module__.split(".")[0] not in ("torch", "builtins"):
            for value in vars(cls).values():
                if isinstance(value, FunctionType):
                    yield from _layers(value)
    for module in model.modules():
        # Asked only where a loss can be: transformers warns when a model without one is asked for it.
        if hasattr(type(module), "loss_function") and "labels" in _names(type(module).forward):
            loss: object = module.loss_function
            if isinstance(loss, FunctionType):
                yield from _layers(loss)


def _layers(function: FunctionType) -> Iterator[FunctionType]:
    """A function and what its decorators wrapped."""
    inner: Any = function
    while isinstance(inner, FunctionType):
        yield inner
        inner = getattr(inner, "__wrapped__", None)


def _called_slots(function: FunctionType, seen: set[int]) -> Iterator[tuple[str, str]]:
    """File and name of each slot that a function's code names, or one that it calls in its own file does."""
    if id(function.__code__) in seen:
        return
    seen.add(id(function.__code__))
    names = function.__globals__
    place = names.get("__name__", "")
    if vars(sys.modules.get(place, sys)) is not names:
        return  # code without a module cannot be patched by name
    for name in _names_in(function.__code__):
        value = names.get(name)
        if isinstance(value, type) or not callable(value):
            continue
        if is_slot(value):
            yield place, name
        elif isinstance(value, FunctionType) and value.__globals__ is names:
            yield from _called_slots(value, seen)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _names(function: Callable[..., Any]) -> list[str]:
    return [p.name for p in parameters_of(function)]
