"""Which part of a family of tests is run today: another one each day, and all of it by ``make slow``.

``TESTS_DAY=2026-11-29`` repeats a day, which the tests name where they fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any, TypeVar

_Item = TypeVar("_Item")
DAY = os.environ.get("TESTS_DAY") or datetime.now(UTC).strftime("%Y-%m-%d")
AGAIN = f"again: TESTS_DAY={DAY}"


def of_today(items: Iterable[_Item], parts: int, day: str = DAY) -> list[_Item]:
    """Every so manieth item, beginning elsewhere each day: as many days as there are parts meet them all."""
    return list(islice(items, date.fromisoformat(day).toordinal() % parts, None, parts))


def by_day(items: Iterable[Any], parts: int, day: str = DAY) -> list[Any]:
    """Parameters of a family of alike cases: those of today as they are, and the others for ``make slow`` alone.

    Give it to ``pytest.mark.parametrize``. A tuple is the values of several arguments.
    """
    import pytest  # here: modules in Triton's interpreter need it not

    params = [_param(item) for item in items]
    today = set(of_today(range(len(params)), parts, day))
    return [each if n in today else _param(each, pytest.mark.slow) for n, each in enumerate(params)]


def _param(item: Any, *marks: Any) -> Any:
    import pytest

    values, more, name = item if isinstance(item, type(pytest.param())) else (item, (), None)
    values = values if isinstance(values, tuple) else (values,)
    return pytest.param(*values, marks=(*more, *marks), id=name)
