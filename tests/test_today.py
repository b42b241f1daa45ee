"""A part of a family of tests a day: together the days meet all of it, and what is left to ``make slow`` is told."""

from __future__ import annotations

import pytest

from tests.today import by_day, of_today

DAYS = ("2026-11-29", "2026-11-30", "2026-12-01")


def test_days_meet_every_case_once() -> None:
    """As many days as there are parts, one after another."""
    found = [item for day in DAYS for item in of_today(range(10), 3, day)]
    assert sorted(found) == list(range(10))


def test_what_is_not_of_today_is_slow() -> None:
    """All stay parameters, with the names and marks that they had."""
    own = pytest.param("c", 3, marks=pytest.mark.gpu, id="third")
    for day in DAYS:
        params = by_day([("a", 1), ("b", 2), own], 3, day)
        assert [param.values for param in params] == [("a", 1), ("b", 2), ("c", 3)]
        assert sum("slow" not in {mark.name for mark in param.marks} for param in params) == 1
        assert params[2].id == "third"
        assert "gpu" in {mark.name for mark in params[2].marks}
