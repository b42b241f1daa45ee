"""How a forward is called: what it is given, and which plain values. One graph is traced for each form."""

from __future__ import annotations

import enum
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from twinkle_tune.errors import GraphError


class Given(enum.Enum):
    """An argument that may be another one at each call: a tensor, a tuple, a cache."""

    GIVEN = "given"


GIVEN = Given.GIVEN


@dataclass(frozen=True, slots=True)
class Dims:
    """A tensor of so many dimensions: a graph may hold how many they are, and never their sizes."""

    count: int


_PLAIN = (bool, int, str)
Value = Given | Dims | bool | int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Calls of a forward that have one graph.

    Attributes:
        args: positional arguments: a plain value, which the graph holds as a constant; a tensor's :class:`Dims`; or
            :data:`GIVEN`, where nothing is known, which any tensor is too.
        kwargs: name and value of each keyword argument, in the order of the names.
        training: the module's own training flag.
    """

    args: tuple[Value, ...]
    kwargs: tuple[tuple[str, Value], ...]
    training: bool

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool) -> Form:
        """Of a call."""
        named = tuple(sorted((name, _value(value)) for name, value in kwargs.items()))
        return cls(args=tuple(map(_value, args)), kwargs=named, training=training)

    @classmethod
    def usual(cls, forward: Callable[..., Any], *, training: bool) -> Form:
        """The call of a forward, which takes the module first, with what it must be given and nothing else."""
        required = [
            p
            for p in list(inspect.signature(forward).parameters.values())[1:]
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        named = tuple(sorted((p.name, GIVEN) for p in required if p.kind is p.KEYWORD_ONLY))
        return cls(args=(GIVEN,) * (len(required) - len(named)), kwargs=named, training=training)

    def fits(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool) -> bool:
        """Whether a call has this form."""
        if training is not self.training or len(args) != len(self.args) or len(kwargs) != len(self.kwargs):
            return False
        for value, expected in zip(args, self.args, strict=True):
            if not _is_as(value, expected):
                return False
        return all(name in kwargs and _is_as(kwargs[name], expected) for name, expected in self.kwargs)

    @property
    def text(self) -> str:
        """As JSON; :meth:`read` reads it."""
        return json.dumps([list(map(_told, self.args)), [[n, _told(v)] for n, v in self.kwargs], self.training])

    @classmethod
    def read(cls, text: str) -> Form:
        """From its text.

        Raises:
            GraphError: it is no such text.
        """
        try:
            args, kwargs, training = json.loads(text)
            return cls(
                args=tuple(map(_read, args)), kwargs=tuple((str(n), _read(v)) for n, v in kwargs), training=training
            )
        except (ValueError, TypeError, KeyError) as error:
            raise GraphError(f"form: got {text[:80]!r}, expected a form; profile the model again") from error


def _value(value: Any) -> Value:
    if isinstance(value, Tensor):
        return Dims(value.dim())
    return value if _is_plain(value) else GIVEN


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return value is None or kind in _PLAIN or (kind is float and math.isfinite(value))


def _is_as(value: Any, expected: Value) -> bool:
    if expected is GIVEN:
        return not _is_plain(value)
    if type(expected) is Dims:
        return isinstance(value, Tensor) and value.dim() == expected.count
    return value is expected or (type(value) is type(expected) and value == expected)


def _told(value: Value) -> object:
    if isinstance(value, Dims):
        return {"dims": value.count}
    return [] if value is GIVEN else [value]


def _read(told: Any) -> Value:
    if isinstance(told, dict):
        return Dims(int(told["dims"]))
    return _value(told[0]) if told else GIVEN
