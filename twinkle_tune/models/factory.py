"""Models from the user's own code: ``package.module:function``."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from twinkle_tune.errors import ModelError, TuneError

_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_factory(spec: str) -> bool:
    """Whether the name has the form ``package.module:function``."""
    return _FACTORY.fullmatch(spec) is not None


def call_factory(spec: str) -> tuple[nn.Module, list[Any] | None]:
    """Import the function and call it without arguments.

    Returns:
        The module, and its example inputs: a list whose items are each one call (a tensor, a tuple of
        arguments or a dictionary of keyword arguments); None where the factory gave only a module.

    Raises:
        ModelError: the function cannot be imported, raises, or returns something else.
    """
    function = _import(spec)
    try:
        made = function()
    except TuneError:
        raise
    except Exception as error:  # whatever the user's code raises is one and the same fact here
        raise ModelError(
            f"{spec}: the factory raised {type(error).__name__}: {error}; expected a module "
            "or (module, inputs) from a call without arguments"
        ) from error
    if isinstance(made, nn.Module):
        return made, None
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made[0], _input_sets(spec, made[1])
    raise ModelError(
        f"{spec}: the factory returned {type(made).__name__}, expected a torch.nn.Module or (module, inputs)"
    )


def move(value: Any, device: str, dtype: torch.dtype | None) -> Any:
    """The value with its tensors on ``device``, floating-point ones as ``dtype`` unless that is None."""
    match value:
        case torch.Tensor():
            return value.to(device, dtype if value.is_floating_point() else None)
        case dict():
            return {key: move(item, device, dtype) for key, item in value.items()}
        case tuple() if hasattr(value, "_fields"):  # a named tuple
            return type(value)(*(move(item, device, dtype) for item in value))
        case tuple() | list():
            return type(value)(move(item, device, dtype) for item in value)
        case _:
            return value


def _import(spec: str) -> Callable[[], object]:
    module_name, _, path = spec.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a module may raise anything while it is imported
        raise ModelError(
            f"{spec}: {module_name} could not be imported ({type(error).__name__}: {error}); expected "
            "a module on the Python path: run from the folder that holds it, or install it"
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            near = get_close_matches(name, dir(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ModelError(f"{spec}: {module_name} has no {path!r}, expected a function that returns a module{hint}")
        found = getattr(found, name)
    if not callable(found):
        raise ModelError(f"{spec}: got a {type(found).__name__}, expected a function that returns a module")
    function: Callable[[], object] = found
    return function


def _input_sets(spec: str, inputs: object) -> list[Any]:
    sets = list(inputs) if isinstance(inputs, list) else [inputs]
    odd = [type(item).__name__ for item in sets if not isinstance(item, (torch.Tensor, tuple, dict))]
    if odd or not sets:
        raise ModelError(
            f"{spec}: the factory's inputs are {', '.join(odd) or 'an empty list'}, expected a tensor, a "
            "tuple of arguments, a dictionary of keyword arguments, or a list of these"
        )
    return sets
