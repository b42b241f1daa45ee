"""What a traced forward finds under the names of its file.

- Functions of ``math``: given a size (``1 / math.sqrt(k.size(-1))``) they would ask for its value while tracing. Here
  the call is a node, and is made at each call of the graph with the size of then.
- Functions that stay whole, because something may be put in their place: a node that looks the name up when it runs.
- Tables that are asked for a function by name (transformers' implementations of attention): what they give is a node
  that asks again when it runs.

Nothing is patched for that: the forward runs with a copy of its file's names. So do functions of the same file that it
calls, and methods of its class.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

from torch import fx, nn

from twinkle_tune.errors import GraphError

Whole = Callable[[str, str, Any], bool]
"""Of a file's module name, a name in it and what stands there: whether a call of it is one node."""

_MATH = frozenset(id(f) for f in vars(math).values() if isinstance(f, BuiltinFunctionType))


def none_whole(place: str, name: str, value: Any) -> bool:
    """No function stays whole."""
    return False


def with_stand_ins(function: Callable[..., Any], whole: Whole) -> Callable[..., Any]:
    """The function, or a copy that finds stand-ins where its code, or what it calls in its file, names such functions.

    Raises:
        GraphError: a function that stays whole is called from behind a decorator, where no copy can be put.
    """
    if not isinstance(function, FunctionType):
        return function
    inner = getattr(function, "__wrapped__", None)
    while isinstance(inner, FunctionType):
        if any(_is_whole(inner.__globals__, name, whole) for name in _named(inner, whole)):
            raise GraphError(f"{inner.__qualname__} calls a function that is a slot, from behind a decorator")
        inner = getattr(inner, "__wrapped__", None)
    names = function.__globals__
    named = _named(function, whole)
    stands = {name: made for name in named if (made := _stand_in(names, name, whole)) is not None}
    if not stands:
        return function
    made = {**names, **stands}
    for name in named - stands.keys():
        value = names.get(name)
        if isinstance(value, FunctionType) and value.__globals__ is names:
            made[name] = _rebuilt(value, made)
    return _rebuilt(function, made)


def methods_with_stand_ins(instance: Any, cls: type, whole: Whole) -> dict[str, Any]:
    """The methods of a class that need stand-ins, bound to an instance; not its forward."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            found.pop(name, None)
            if name == "forward" or name.startswith("__") or not isinstance(value, FunctionType):
                continue
            try:
                made = with_stand_ins(value, whole)
            except GraphError as error:
                made = _raising(error)
            if made is not value:
                found[name] = MethodType(made, instance)
    return found


def _named(function: FunctionType, whole: Whole) -> set[str]:
    """The names in its code, and in that of the functions of its file that it calls and that do not stay whole."""
    names, found, waiting = function.__globals__, set[str](), [function.__code__]
    while waiting:
        for name in set(names_in(waiting.pop())) - found:
            found.add(name)
            value = names.get(name)
            if isinstance(value, FunctionType) and value.__globals__ is names and not _is_whole(names, name, whole):
                waiting.append(value.__code__)
    return found


def names_in(code: CodeType) -> Iterator[str]:
    """The names that code uses, and those of the functions that are written inside of it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def _is_whole(names: dict[str, Any], name: str, whole: Whole) -> bool:
    value = names.get(name)
    return callable(value) and not isinstance(value, type) and whole(str(names.get("__name__")), name, value)


def _stand_in(names: dict[str, Any], name: str, whole: Whole) -> Any:
    value: Any = names.get(name)
    if value is math:
        return _Math()
    if id(value) in _MATH:
        return _as_node(value, value)
    if callable(getattr(type(value), "get_interface", None)):
        return _Table(value)
    return _as_node(value, LookedUp(names, name)) if _is_whole(names, name, whole) else None


class _Math:
    """In the place of the module ``math``."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(math, name)
        return _as_node(value, value) if callable(value) else value


class _Table:
    """In the place of a table of functions."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def get_interface(self, name: Any, default: Callable[..., Any]) -> Callable[..., Any]:
        """The function of that name, or the default."""
        table = self._table

        def call(*args: Any, **kwargs: Any) -> Any:
            return table.get_interface(name, default)(*args, **kwargs)

        call.__name__ = call.__qualname__ = "attention_interface"
        return _as_node(table.get_interface(name, default), call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)


def _as_node(function: Any, target: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose calls with anything of the graph are a node."""

    def call(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        tracer = next((each.tracer for each in given if isinstance(each, fx.Proxy)), None)
        if tracer is None:
            return function(*args, **kwargs)
        return tracer.create_proxy("call_function", target, args, kwargs)

    return call


class LookedUp:
    """What stands under a name of a file at the time of a call.

    A copy is the same one; another process looks in its own file of that name.
    """

    def __init__(self, names: dict[str, Any], name: str) -> None:
        self._names = names
        self.__name__ = self.__qualname__ = name
        self.__module__ = str(names.get("__name__"))
        now = names[name]
        with suppress(TypeError, ValueError):  # it does not tell its parameters
            self.__signature__ = inspect.signature(now.forward if isinstance(now, nn.Module) else now)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What is called."""
        return self._names[self.__name__](*args, **kwargs)

    def __copy__(self) -> LookedUp:
        return self

    def __deepcopy__(self, memo: object) -> LookedUp:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return looked_up, (self.__module__, self.__name__)


def looked_up(place: str, name: str) -> LookedUp:
    """What stands under a name of a module, which is imported."""
    return LookedUp(vars(importlib.import_module(place)), name)


def _raising(error: GraphError) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise error

    return call


def _rebuilt(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made
