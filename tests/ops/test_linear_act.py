"""What is particular to linear_act."""

from __future__ import annotations

from tests.ops.interpreter import run_interpreted


def test_particular_cases_hold_in_the_interpreter() -> None:
    """Layouts of the bias, what is no number, no inputs at all."""
    run_interpreted("tests.ops.linear_cases")
