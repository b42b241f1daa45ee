"""Names and spans of time as people read them."""

from __future__ import annotations


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
