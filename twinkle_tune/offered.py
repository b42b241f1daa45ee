"""Functions of later rooms, which the front door names: loaded when one is asked for.

A room knows none of those after it. So ``print(profile)``, which is a report's text, makes no circle of imports, nor
does ``kernelize_model``, which lets a profile from elsewhere be tried.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

_HOMES: dict[str, str] = {}


def offer(**homes: str) -> None:
    """Say where functions are, as ``text="package.module:function"``."""
    _HOMES.update(homes)


def offered(name: str) -> Callable[..., Any]:
    """The function that is offered by that name."""
    module, _, function = _HOMES[name].partition(":")
    made: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return made
