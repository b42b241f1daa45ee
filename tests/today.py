"""Which part of a family of tests is run today: another one each day, and all of it by ``make slow``.

``TESTS_DAY=2026-11-29`` repeats a day, which the tests name where they fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, date, datetime
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
DAY = os.environ.get("TESTS_DAY") or datetime.now(UTC).strftime("%Y-%m-%d")
AGAIN = f"again: TESTS_DAY={DAY}"


def of_today(items: Iterable[_Item], parts: int, day: str = DAY) -> list[_Item]:
    """Every so manieth item, beginning elsewhere each day: as many days as there are parts meet them all."""
    return list(islice(items, date.fromisoformat(day).toordinal() % parts, None, parts))
