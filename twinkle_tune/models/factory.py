"""Models from the user's own code: ``package.module:function``."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from twinkle_tune.errors import ModelError, TuneError, in_a_line
from twinkle_tune.models.misspelt import refuse_file
from twinkle_tune.words import did_you_mean

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
    with working_directory_kept():
        function = _import(spec)
        with told(f"{spec}: the factory", "a module or (module, inputs) from a call without arguments"):
            made = function()
    if isinstance(made, nn.Module):
        return made, None
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made[0], _input_sets(spec, made[1])
    raise ModelError(
        f"{spec}: the factory returned {type(made).__name__}, expected a torch.nn.Module or (module, inputs)"
    )


@contextmanager
def told(who: str, expected: str) -> Iterator[None]:
    """Within, whatever the user's code raises is one and the same fact, also a ``sys.exit()`` of theirs.

    Raises:
        ModelError: in the place of anything but this package's errors and Ctrl-C.
    """
    try:
        yield
    except (TuneError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ModelError(f"{who} raised {in_a_line(error)}; expected {expected}") from error


@contextmanager
def working_directory_kept() -> Iterator[None]:
    """Relative paths mean afterwards what they meant before, whatever code that is run within does."""
    try:
        before = os.getcwd()
    except OSError:  # it was removed; there is nothing to go back to
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            os.chdir(before)


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
    refuse_file(module_name, path)
    try:
        found: Any = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything while it is imported, a script calls sys.exit()
        raise ModelError(
            f"{spec}: {module_name} could not be imported ({in_a_line(error)}); expected "
            "a module on the Python path: run from the folder that holds it, or install it"
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            hint = did_you_mean(name, dir(found))
            raise ModelError(f"{spec}: {module_name} has no {path!r}, expected a function that returns a module{hint}")
        found = getattr(found, name)
    if isinstance(found, nn.Module):
        raise ModelError(
            f"{spec}: got a {type(found).__name__}, which is a module, expected a function that returns one; "
            f"write: def make(): return {path}, example_inputs; and name {module_name}:make"
        )
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
