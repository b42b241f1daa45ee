"""Forward and backward apart."""

from __future__ import annotations

import pytest

from tests.measure.test_run import ToldClock, takes
from twinkle_tune.measure.passes import Passes, time_passes


@pytest.mark.parametrize(
    ("forward_us", "both_us", "passes"),
    [
        (10.0, 35.0, Passes(forward_us=10.0, backward_us=25.0)),
        (10.0, 9.0, Passes(forward_us=10.0, backward_us=0.0)),
    ],
)
def test_the_backward_is_what_it_adds(forward_us: float, both_us: float, passes: Passes) -> None:
    """The backward takes what both take beyond the forward, and never less than nothing."""
    assert time_passes(takes(forward_us), takes(both_us), ToldClock()) == passes


def test_one_disturbed_pair_changes_nothing() -> None:
    """Of five pairs one that was interrupted does not count."""
    times = iter([35.0, 900.0, 35.0, 35.0, 35.0])
    assert time_passes(takes(10.0), lambda: next(times), ToldClock()) == Passes(forward_us=10.0, backward_us=25.0)
