"""What an objective's name and a slowdown stand for."""

from __future__ import annotations

import math
from typing import Any

import pytest

from twinkle_tune.errors import ObjectiveError
from twinkle_tune.objective import BY_TIME, Aim, Objective, parse_aim


def test_time_is_the_default_and_names_are_read_in_any_case() -> None:
    """Nothing given is the fastest; a balanced one without a slowdown allows a tenth more time."""
    assert parse_aim() == parse_aim("TIME") == BY_TIME == Aim()
    assert parse_aim(Objective.MEMORY) == Aim(objective=Objective.MEMORY)
    assert parse_aim("balanced") == parse_aim("balanced", 1.1)
    assert parse_aim("balanced", 2).slowdown == 2.0


def test_what_an_aim_allows() -> None:
    """By memory any time is allowed, balanced up to the slowdown; only time is not about memory."""
    assert [parse_aim(name).is_memory for name in Objective] == [False, True, True]
    assert (parse_aim("memory").most, parse_aim("balanced", 1.5).most) == (math.inf, 1.5)
    assert [str(parse_aim(name)) for name in Objective] == ["time", "memory", "balanced, at most 1.1x the time"]


@pytest.mark.parametrize(
    ("objective", "slowdown", "message"),
    [
        ("space", None, "objective: got 'space', expected one of time, memory, balanced"),
        (None, None, "objective: got None"),
        ("time", 1.2, "slowdown: got 1.2 with the objective time, expected it with balanced alone"),
        ("memory", 1.2, "slowdown: got 1.2 with the objective memory, expected it with balanced alone"),
        ("balanced", 0.9, "slowdown: got 0.9, expected a number of at least 1"),
        ("balanced", math.nan, "slowdown: got nan"),
        ("balanced", math.inf, "slowdown: got inf"),
        ("balanced", "much", "slowdown: got 'much'"),
        ("balanced", True, "slowdown: got True"),
    ],
)
def test_a_bad_objective_is_refused(objective: Any, slowdown: Any, message: str) -> None:
    """An unknown objective, or a slowdown that does not go with it, is one clear error."""
    with pytest.raises(ObjectiveError, match=message):
        parse_aim(objective, slowdown)
