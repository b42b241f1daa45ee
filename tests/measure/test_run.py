"""Races with real calls: on a clock under the test's control, and on this machine's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle

import pytest
import torch

from twinkle_tune.measure.clock import Call, CpuClock
from twinkle_tune.measure.race import Race, RaceSettings
from twinkle_tune.measure.run import run_race

SETTINGS = RaceSettings()


class ToldClock(CpuClock):
    """A clock that takes a call's own word for its time."""

    def block_calls(self, call: Call) -> int:
        """One."""
        return 1

    def burst_us(self, call: Call, block_calls: int) -> float:
        """What the call returns."""
        time_us = call()
        assert isinstance(time_us, float)
        return time_us


def takes(time_us: float) -> Callable[[], float]:
    """A call that says so."""
    return lambda: time_us


def fails_after(calls: int, error: Exception) -> Callable[[], float]:
    """A call that is the fastest of all until it raises."""
    made = iter(range(calls))

    def call() -> float:
        if next(made, None) is None:
            raise error
        return 1.0

    return call


def test_the_faster_call_wins_and_times_come_back() -> None:
    """The decision comes with every contestant's counted times, paired with the original's."""
    decision, times_us = run_race({"original": takes(100.0), "a": takes(80.0)}, ToldClock(), SETTINGS)
    assert decision.winner == "a"
    assert times_us == {"original": (100.0,) * decision.rounds, "a": (80.0,) * decision.rounds}


@pytest.mark.parametrize(("own", "given"), [(8, 8), (4, 8), (24, 8), (2, 2), (32, 32)])
def test_blocks_of_about_the_originals_size_are_of_its_size(own: int, given: int) -> None:
    """Whose blocks are within a factor of three of the original's is timed as the original is; others as they need."""
    timed: dict[object, int] = {}

    class SizingClock(ToldClock):
        def block_calls(self, call: Call) -> int:
            return 8 if call is original else own

        def burst_us(self, call: Call, block_calls: int) -> float:
            timed[call] = block_calls
            return super().burst_us(call, block_calls)

    original, challenger = takes(100.0), takes(200.0)
    run_race({"original": original, "a": challenger}, SizingClock(), SETTINGS)
    assert timed == {original: 8, challenger: given}


def test_a_race_needs_the_original() -> None:
    """Without a call named "original" nothing is timed."""
    with pytest.raises(ValueError, match=r"calls: got \['a'\], expected 'original'"):
        run_race({"a": takes(1.0)}, ToldClock(), SETTINGS)


@pytest.mark.parametrize("calls", [0, 1, 4])
def test_a_challenger_that_raises_leaves(calls: int) -> None:
    """It leaves with the first line of its error, in whichever round, and the others race on."""
    contest = {
        "original": takes(100.0),
        "bad": fails_after(calls, RuntimeError("no such tile\nand much more")),
        "good": takes(90.0),
    }
    decision, _ = run_race(contest, ToldClock(), RaceSettings(hopeless=1000.0))
    assert decision.winner == "good"
    assert decision.left == (("bad", "raised while it was timed: RuntimeError: no such tile"),)
    assert decision.failed == ("bad",)


def test_the_last_challenger_that_raises_ends_the_race() -> None:
    """With no one left to race the original stays."""
    contest = {"original": takes(100.0), "bad": fails_after(3, ValueError())}
    decision, _ = run_race(contest, ToldClock(), SETTINGS)
    assert (decision.winner, decision.reason) == ("original", "no candidate could be timed")
    assert decision.left == (("bad", "raised while it was timed: ValueError"),)


def test_an_error_of_the_original_is_the_callers() -> None:
    """Where the original itself raises there is nothing to compare with, and nothing to hide."""
    with pytest.raises(RuntimeError, match="out of order"):
        run_race({"original": fails_after(2, RuntimeError("out of order")), "a": takes(1.0)}, ToldClock(), SETTINGS)


def test_out_of_time_leaves_the_original() -> None:
    """A race without any time times nothing and says so."""
    contest = {"original": fails_after(0, RuntimeError("never called")), "a": takes(1.0)}
    decision, times_us = run_race(contest, ToldClock(), SETTINGS, deadline_s=0.0)
    assert (decision.winner, decision.reason) == ("original", "out of time budget after 0 rounds")
    assert times_us == {"original": (), "a": ()}


def test_the_deadline_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A race that would never decide ends with the round in which its time ends, with what it has counted."""
    turns, passed_s = cycle((95.0, 103.0)), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: passed_s[0])

    def slow_to_tell() -> float:
        passed_s[0] += 0.001
        return next(turns)

    decision, times_us = run_race(
        {"original": takes(100.0), "a": slow_to_tell},
        ToldClock(),
        RaceSettings(max_rounds=10**6),
        deadline_s=0.1,
    )
    assert 0.1 <= passed_s[0] < 0.11
    assert decision.rounds == len(times_us["original"]) > 0
    assert decision.reason == f"out of time budget after {decision.rounds} rounds"


def test_a_listener_hears_every_round() -> None:
    """Warm-up rounds are told too, then one more counted round each time, up to the last."""
    heard: list[tuple[int, str]] = []

    def listen(race: Race) -> None:
        heard.append((race.rounds, race.leader[0]))

    run_race({"original": takes(100.0), "a": takes(80.0)}, ToldClock(), SETTINGS, on_round=listen)
    assert heard == [(0, "original"), (0, "original"), *((number, "a") for number in range(1, 10))]


def test_identical_calls_keep_the_original_on_this_machine() -> None:
    """Of 20 real contests of one call under three names at most one leaves the original."""
    rows, weight = torch.randn(8, 1024), torch.randn(1024)  # too small for torch to share out to threads

    def call() -> torch.Tensor:
        return torch.nn.functional.layer_norm(rows, (1024,), weight)

    contest: dict[str, Call] = {"original": call, "a": call, "b": call}
    won = [run_race(contest, CpuClock(), SETTINGS, seed=seed)[0].winner for seed in range(20)]
    assert sum(name != "original" for name in won) <= 1


def test_a_really_faster_call_wins_on_this_machine() -> None:
    """Half the work wins on the real clock, against itself slower and against the original."""
    contest: dict[str, Call] = {
        "original": lambda: sum(range(4000)),
        "half": lambda: sum(range(2000)),
        "slower": lambda: sum(range(6000)),
    }
    decision, times_us = run_race(contest, CpuClock(), SETTINGS)
    assert decision.winner == "half"
    assert len(times_us["half"]) == decision.rounds
    assert dict(decision.left).keys() == {"slower"}
