"""Names and spans of time as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

_NOBODY: Mapping[str, str] = MappingProxyType({})
_ALIKE = 0.7
"""Texts this alike (difflib's ratio) are one misspelt: "cud" is cuda, and "tpu" is not xpu."""


def short_name(name: str) -> str:
    """The last part of a dotted name; any other text as it is."""
    return name.rpartition(".")[2] if all(part.isidentifier() for part in name.split(".")) else name


def span(seconds: float | None) -> str:
    """Seconds as people say them: "30 s", "1 min 30 s", "4 min", "2 h"."""
    whole = round(seconds or 0)
    if whole < 60:
        return f"{seconds:g} s" if seconds is not None and 0 < seconds < 10 else f"{whole} s"
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", f"{rest} s" if rest else ""]
    return " ".join(part for part in parts if part)


def did_you_mean(text: str, known: Iterable[str], others: Mapping[str, str] = _NOBODY, *, most: int = 1) -> str:
    """ "; did you mean cuda?" of a text that is spelled like a known one, or like another word for it; "" of any other.

    Args:
        text: as it was written.
        known: what there is.
        others: known texts by what people call them, too, in small letters ("cuda" by "gpu").
        most: how many of the known are named.
    """
    named = {each.lower(): each for each in known} | dict(others)
    near = [named[each] for each in get_close_matches(text.lower(), named, n=most, cutoff=_ALIKE)]
    return f"; did you mean {' or '.join(near)}?" if near else ""
