"""How a profile shows itself: functions of later rooms, which the front door names, loaded when one is asked for.

A profile knows no report. So ``print(profile)`` and ``profile.to_frame()`` make no circle of imports.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

Table = Literal["samples", "trials", "selections", "steps", "parity", "conditions", "timings"]
"""The tables that ``profile.to_frame()`` gives."""

_HOMES: dict[str, str] = {}


def offer_views(**homes: str) -> None:
    """Say where the views are made, as ``text="package.module:function"``; the function takes the profile first."""
    _HOMES.update(homes)


def view(name: str) -> Callable[..., Any]:
    """The function that makes the view of that name."""
    module, _, function = _HOMES[name].partition(":")
    made: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return made
