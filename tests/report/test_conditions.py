"""What a report says of the device while it was timed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.report import fabricate
from twinkle_tune.outcome import Conditions, DeviceState
from twinkle_tune.report import frames
from twinkle_tune.report.conditions import conditions_text, disturbances
from twinkle_tune.report.render import Format, render
from twinkle_tune.report.terminal import terminal_text


def test_a_contest_tells_its_device_in_a_line() -> None:
    """Clock rate and temperature around the last race, what slowed it, and each reason for repeating once."""
    hot, calm = fabricate.hot().contests
    assert conditions_text(hot) == (
        "1965 MHz, 58 °C before, 1410 MHz, 88 °C after; throttled: hardware thermal slowdown; "
        "2 rounds timed again (the clock rate went from 1965 to 1410 MHz)"
    )
    assert conditions_text(calm) == "1980 MHz, 51 °C before, 1965 MHz, 58 °C after"


def test_a_machine_that_tells_nothing_says_nothing() -> None:
    """Without conditions there is no line and no warning."""
    assert conditions_text(fabricate.won()) == ""
    assert list(disturbances(fabricate.normal())) == []
    assert "The device" not in terminal_text(fabricate.normal())


def test_a_count_of_throttling_that_rose_is_throttling() -> None:
    """A CPU tells no reason, but how often it happened: more after the race than before it is a warning."""

    def between(before: int, after: int) -> Conditions:
        return Conditions(before=DeviceState(throttled=before), after=DeviceState(throttled=after))

    assert between(3, 3).throttled == ""
    assert between(3, 5).throttled == "the processor"
    profile = fabricate.profile(replace(fabricate.won(), conditions=(between(3, 3), between(3, 5))))
    assert [line[:49] for line in disturbances(profile)] == ["The device was throttled in 1 of 2 races (the pro"]


@pytest.mark.parametrize("format", ["terminal", "md", "html"])
def test_every_report_warns_of_an_unsteady_device(format: Format | str) -> None:
    """Each form has both warnings at its top, and the state with the contest."""
    profile = fabricate.hot()
    text = terminal_text(profile) if format == "terminal" else render(profile, format)  # type: ignore[arg-type]
    text = " ".join(text.split())
    assert "The device was not steady: 2 rounds of 1 contest were disturbed and timed again." in text
    assert "The device was throttled in 1 of 3 races (hardware thermal slowdown)" in text
    assert "1980 MHz, 51 °C before, 1965 MHz, 58 °C after" in text


def test_the_table_has_a_row_a_race() -> None:
    """Each race with a known device is a row, joined to its samples by contest and race."""
    rows = frames.records(frames.conditions(fabricate.hot()))
    assert [(row["contest"], row["race"], row["repeated"]) for row in rows] == [(1, 1, 0), (1, 2, 2), (2, 1, 0)]
    assert rows[1]["throttling_after"] == "hardware thermal slowdown"
    assert rows[1]["throttling_before"] is None
    assert (rows[1]["clock_before_mhz"], rows[1]["clock_after_mhz"]) == (1965.0, 1410.0)
    assert rows[1]["repeated_reasons"].count("the clock rate went from 1965 to 1410 MHz") == 2


def test_a_gpu_whose_driver_tells_nothing_is_named() -> None:
    """Without the driver's word a device that slowed down goes unnoticed: the head says so, on a GPU alone."""
    silent = [replace(contest, conditions=()) for contest in fabricate.normal().contests]
    on_gpu = replace(fabricate.normal(), device="cuda", contests=tuple(silent))
    assert [line[:40] for line in disturbances(on_gpu)] == ["The driver told nothing of clock rate, t"]
    assert list(disturbances(replace(on_gpu, device="cpu"))) == []
    untimed = tuple(replace(each, selection=replace(each.selection, rounds=0)) for each in silent)
    assert list(disturbances(replace(on_gpu, contests=untimed))) == []
