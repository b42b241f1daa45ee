"""docs/zoo.md and reports/zoo.json of the results."""

from __future__ import annotations

from typing import Any


def write_page(results: dict[str, dict[str, Any]], without: dict[str, str]) -> list[str]:
    """Write both; returns their paths."""
    raise NotImplementedError
