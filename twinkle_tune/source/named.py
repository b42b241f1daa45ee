"""Letting an implementation take its arguments by the names that the original gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

_BY_NAME = inspect.Parameter.POSITIONAL_OR_KEYWORD


def named_as(call: Callable[..., Any], original: Callable[..., Any], *, skip: int = 0) -> Callable[..., Any]:
    """The same callable, with the original's names for those parameters that may be given by name.

    A Python function is copied with other names, which costs nothing when it runs; anything else is called by another.

    Args:
        call: takes the original's parameters in the original's order.
        skip: how many parameters at the beginning are given by position alone (the module of a layer).
    """
    ours, theirs = _names(call), _names(original)
    if ours is None or theirs is None or ours[skip:] == theirs[skip:]:
        return call
    names = {
        mine: its
        for mine, its in list(zip(ours, theirs, strict=False))[skip:]
        if mine is not None and its is not None and mine != its
    }
    if not names:
        return call
    return _renamed(call, names) if _is_renamable(call, names) else _called_by(call, names)


def _names(call: Callable[..., Any]) -> list[str | None] | None:
    """Names of the positional parameters; None for one that cannot be given by name, and for a callable of no list."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return None
    positional = (_BY_NAME, inspect.Parameter.POSITIONAL_ONLY)
    return [p.name if p.kind is _BY_NAME else None for p in parameters if p.kind in positional]


def _is_renamable(call: Callable[..., Any], names: dict[str, str]) -> bool:
    if not isinstance(call, FunctionType) or hasattr(call, "__wrapped__") or hasattr(call, "__signature__"):
        return False
    code = call.__code__
    kept = {*code.co_varnames, *code.co_cellvars, *code.co_freevars} - names.keys()
    return not names.keys() & {*code.co_cellvars} and not kept & {*names.values()}


def _renamed(call: Callable[..., Any], names: dict[str, str]) -> Callable[..., Any]:
    assert isinstance(call, FunctionType)
    code = call.__code__.replace(co_varnames=tuple(names.get(name, name) for name in call.__code__.co_varnames))
    twin = FunctionType(code, call.__globals__, call.__name__, call.__defaults__, call.__closure__)
    twin.__kwdefaults__, twin.__doc__ = call.__kwdefaults__, call.__doc__
    twin.__qualname__, twin.__module__ = call.__qualname__, call.__module__
    twin.__dict__.update(call.__dict__)
    return twin


def _called_by(call: Callable[..., Any], names: dict[str, str]) -> Callable[..., Any]:
    back = {its: mine for mine, its in names.items()}

    def renamed(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **{back.get(name, name): value for name, value in kwargs.items()})

    return renamed
