"""Which settings of a module's plain objects, such as its config, a graph was made with."""

from __future__ import annotations

import enum
from typing import Any

from torch import Tensor, nn

from twinkle_tune.errors import GraphError

PLAIN = (bool, int, float, str, type(None))
"""Values that a graph may hold as constants."""
Read = dict[tuple[str, str], Any]
"""By the names of the object and of its attribute the plain value that was read."""


class Watched:
    """In the place of such an object: whatever is asked is the object's, and plain answers are noted."""

    def __init__(self, of: Any, name: str, read: Read) -> None:
        self.__dict__.update(_of=of, _name=name, _read=read)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._of)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        if isinstance(value, PLAIN):
            self._read[self._name, name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        raise GraphError(f"its forward sets {name!r} of its {self._name}")


def is_watched(value: Any) -> bool:
    """Whether an attribute of a module is an object with settings, and neither torch's nor one that computes."""
    from_torch = type(value).__module__.partition(".")[0] in ("torch", "builtins")
    computes = isinstance(value, (nn.Module, Tensor, enum.Enum, type)) or callable(value)
    return not from_torch and not computes and hasattr(value, "__dict__")
