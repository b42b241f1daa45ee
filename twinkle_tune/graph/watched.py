"""What a forward reads beside tensors while it is traced: its graph is for a module where it still stands so.

What cannot change by itself is noted, with where it was read, and looked at again at each call. Of what may change
inside (lists, dictionaries, objects of somebody's own), and of what a method makes of that, nothing could be looked at:
there is no graph of a forward that reads it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.errors import GraphError

PLAIN = (bool, int, float, str, type(None))
"""Values that a graph may hold as constants."""
_FIXED = (*PLAIN, complex, bytes, enum.Enum, torch.dtype, torch.device, type, FunctionType, BuiltinFunctionType)
_ABSENT = object()
_OF_ALL = frozenset(vars(nn.Module()))
"""What each module has: its parts, which have stand-ins, and its flags and hooks, which the form or others look at."""
Read = dict[tuple[str, str], Any]
"""By an object's path from the module ("" for itself) and the name of its attribute: the value that was read."""


@dataclass(frozen=True, slots=True)
class _Code:
    """What was found in the class: a method."""

    code: Any


def note(read: Read, path: str, name: str, value: Any) -> None:
    """Note what was read.

    Raises:
        GraphError: it may change inside, where nobody could look.
    """
    if not _is_fixed(value):
        where = f"{path}.{name}".lstrip(".")
        raise GraphError(f"it reads {where!r}, a {type(value).__qualname__}, which may change inside")
    read[path, name] = value


def is_as_read(module: Any, read: Read) -> bool:
    """Whether all still stands as it was read."""
    for (path, name), then in read.items():
        holder = module
        for part in path.split(".") if path else ():
            holder = getattr(holder, part, _ABSENT)
        if type(then) is _Code:
            if name in holder.__dict__ or getattr(type(holder), name, _ABSENT) != then.code:
                return False
            continue
        now = getattr(holder, name, _ABSENT)
        if now is not then and (type(now) is not type(then) or now != then):
            return False
    return True


class Watched:
    """In the place of an object with settings, such as a config: whatever is asked is the object's, and is noted."""

    def __init__(self, of: Any, path: str, read: Read) -> None:
        self.__dict__.update(_of=of, _path=path, _read=read)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._of)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name, _ABSENT)
        if value is _ABSENT:
            self._read[self._path, name] = _ABSENT
            raise AttributeError(name)
        if is_watched(value):
            return Watched(value, f"{self._path}.{name}", self._read)
        note(self._read, self._path, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        raise GraphError(f"its forward sets {name!r} of its {self._path}")


def is_watched(value: Any) -> bool:
    """Whether an attribute of a module is an object with settings, and neither torch's nor one that computes."""
    from_torch = type(value).__module__.partition(".")[0] in ("torch", "builtins")
    computes = isinstance(value, (nn.Module, Tensor, enum.Enum, type)) or callable(value)
    return not from_torch and not computes and hasattr(value, "__dict__")


def watching(kind: type, read: Read, stands: tuple[type, ...]) -> Any:
    """A class as ``kind`` whose instances note what is read of them. ``stands``: what is there in others' places."""

    class Watching(kind):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name in _OF_ALL or name.startswith("__") or type(value) in stands:
                return value
            own = object.__getattribute__(self, "__dict__")
            method = getattr(kind, name, None)
            if isinstance(value, MethodType) or (name not in own and callable(method)):
                read["", name] = _Code(method)
            else:
                note(read, "", name, value)
            return value

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                read["", name] = _ABSENT
                raise

    Watching.__name__, Watching.__qualname__, Watching.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return Watching


def _is_fixed(value: Any) -> bool:
    return isinstance(value, _FIXED) or (isinstance(value, tuple) and all(map(_is_fixed, value)))
