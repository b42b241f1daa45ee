"""Places of functions: an attribute of a module, or of a class, that can be read, replaced and put back."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twinkle_tune.errors import BindError, RegistrationError

_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a function hangs: ``owner`` (a module or class) and the attribute's ``name``."""

    owner: Any
    name: str

    @property
    def raw(self) -> object:
        """What stands in the owner's own namespace, a staticmethod or classmethod unopened; a marker if nothing."""
        return vars(self.owner).get(self.name, _MISSING)

    @property
    def function(self) -> Callable[..., Any]:
        """The callable itself: of a method the plain function that takes the instance (or class) first."""
        found: Any = self._attribute
        # A bound method that hangs in a module is a function of its own, and stays closed.
        function: Callable[..., Any] = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
        return function

    def put(self, call: Callable[..., Any]) -> None:
        """Replace it, as the same kind of attribute (function, staticmethod, classmethod) as is there.

        Raises:
            BindError: it stands in something that Python does not let change (a class written in C).
        """
        found = self._attribute
        new = type(found)(call) if isinstance(found, (staticmethod, classmethod)) else call
        try:
            setattr(self.owner, self.name, new)
        except (AttributeError, TypeError) as error:
            name = f"{getattr(self.owner, '__qualname__', self.owner)}.{self.name}"
            raise BindError(f"{name} cannot be replaced ({error}); register a Python function that calls it") from error

    @property
    def _attribute(self) -> object:
        # Unopened also where it is inherited: a class's staticmethod must stay one on the subclass.
        found = inspect.getattr_static(self.owner, self.name, _MISSING)
        return getattr(self.owner, self.name) if found is _MISSING else found  # a module may make it when asked

    def put_back(self, raw: object) -> None:
        """Undo :meth:`put` with what :attr:`raw` was before it."""
        if raw is _MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, raw)


def find_place(target: str) -> Place:
    """The place of "module:function" or "module:Class.method"; imports the module.

    Raises:
        RegistrationError: the module cannot be imported, or has no such function.
    """
    module_name, _, path = target.partition(":")
    # An import runs foreign code, which may raise anything.
    try:
        owner: Any = importlib.import_module(module_name)
    except Exception as error:
        raise RegistrationError(
            f"target_module: {module_name!r} cannot be imported ({type(error).__name__}: {error}); check the name"
        ) from error
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part, None)
    if not callable(getattr(owner, name, None)):
        raise RegistrationError(
            f"func_name: {module_name!r} has no function {path!r}; expected the name of a function, or Class.method"
        )
    return Place(owner=owner, name=name)
