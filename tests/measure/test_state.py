"""The device's state, and rounds that it spoils."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.measure.test_run import ToldClock, takes
from twinkle_tune.errors import DeviceError
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.measure.run import run_race
from twinkle_tune.measure.state import DeviceState, StateWatch, cpu_state, device_state, disturbed
from twinkle_tune.outcome import Conditions

CALM = DeviceState(clock_mhz=2000.0, temperature_c=60.0, throttled=3)
HOT = DeviceState(clock_mhz=2000.0, throttling="hardware thermal slowdown")


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (CALM, CALM, ""),
        (DeviceState(), DeviceState(), ""),
        (DeviceState(), CALM, ""),
        (CALM, DeviceState(clock_mhz=1810.0), ""),
        (CALM, DeviceState(clock_mhz=1790.0), "the clock rate went from 2000 to 1790 MHz"),
        (DeviceState(clock_mhz=300.0), CALM, "the clock rate went from 300 to 2000 MHz"),
        (CALM, DeviceState(throttled=4), "the processor was throttled"),
        (CALM, HOT, "the device began to throttle: hardware thermal slowdown"),
        (HOT, HOT, ""),
        (HOT, CALM, ""),
    ],
)
def test_what_disturbs_a_round(before: DeviceState, after: DeviceState, why: str) -> None:
    """A clock rate that moves by over a tenth, and throttling that begins; not what nobody tells, nor what lasts."""
    assert disturbed(before, after) == why


def test_a_disturbed_round_is_timed_again() -> None:
    """The round in which the clock fell leaves no trace in the times, and the watch says why it was repeated."""
    states = iter([CALM] * 6 + [DeviceState(clock_mhz=1000.0)] + [DeviceState(clock_mhz=1000.0)] * 100)
    reads = 0

    def read() -> DeviceState:
        nonlocal reads
        reads += 1
        return next(states)

    def challenger() -> float:
        return 500.0 if reads == 6 else 80.0

    watch = StateWatch(read)
    decision, times_us = run_race({"original": takes(100.0), "a": challenger}, ToldClock(), RaceSettings(), watch=watch)
    assert decision.winner == "a"
    assert set(times_us["a"]) == {80.0}
    assert watch.repeated == ["the clock rate went from 2000 to 1000 MHz"]
    assert reads == 1 + 2 + decision.rounds + 1
    assert (watch.first, watch.last) == (CALM, DeviceState(clock_mhz=1000.0))


def test_a_watch_tells_the_conditions_of_its_race() -> None:
    """First and last state with the reasons of the repeats; None of a machine that tells nothing."""
    states = iter([CALM, CALM, HOT])
    watch = StateWatch(lambda: next(states))
    assert [watch.repeats(), watch.repeats()] == [False, True]
    why = "the device began to throttle: hardware thermal slowdown"
    assert watch.conditions == Conditions(before=CALM, after=HOT, repeated=(why,))
    silent = StateWatch(DeviceState)
    silent.repeats()
    assert silent.conditions is None


def test_a_clock_that_never_rests_ends_the_repeating() -> None:
    """After ten repeated rounds the race goes on with what the machine gives."""
    rates = iter(range(1000))
    watch = StateWatch(lambda: DeviceState(clock_mhz=1000.0 if next(rates) % 2 else 2000.0))
    decision, _ = run_race({"original": takes(100.0), "a": takes(80.0)}, ToldClock(), RaceSettings(), watch=watch)
    assert (decision.winner, len(watch.repeated)) == ("a", StateWatch.MOST)


def test_a_cpus_state_is_read_from_its_files(tmp_path: Path) -> None:
    """The fastest processor, the hottest sensor, all throttling together; a file without a number is none."""
    for number, (khz, count) in enumerate([(2_000_000, 1), (3_500_000, 4)]):
        frequency, throttle = tmp_path / f"cpu{number}/cpufreq", tmp_path / f"cpu{number}/thermal_throttle"
        frequency.mkdir(parents=True)
        throttle.mkdir()
        (frequency / "scaling_cur_freq").write_text(f"{khz}\n")
        (throttle / "core_throttle_count").write_text(f"{count}\n")
    for number, text in enumerate(["45000\n", "71500\n", "no sensor\n"]):
        (tmp_path / f"thermal_zone{number}").mkdir()
        (tmp_path / f"thermal_zone{number}/temp").write_text(text)
    state = cpu_state(tmp_path, tmp_path)
    assert state == DeviceState(clock_mhz=3500.0, temperature_c=71.5, throttled=5)


def test_a_machine_that_tells_nothing_has_an_empty_state(tmp_path: Path) -> None:
    """Without such files nothing is known, and this machine's own state can be asked for in any case."""
    assert cpu_state(tmp_path, tmp_path) == DeviceState()
    assert device_state("cpu").throttling == ""
    with pytest.raises(DeviceError, match="tpu"):
        device_state("tpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_gpus_state_is_plausible_where_the_driver_tells() -> None:
    """A clock rate of 100 MHz to 5 GHz and no boiling device, or None where pynvml is missing."""
    pytest.importorskip("pynvml", reason="reading a GPU's state needs pynvml")
    state = device_state("cuda")
    assert 100 <= (state.clock_mhz or 0) <= 5000
    assert 0 < (state.temperature_c or 0) < 110
