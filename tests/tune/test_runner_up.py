"""A lost winner gives way to the next best, which must win as the winner must."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.report import fabricate
from tests.tune.test_agree import Thrashing, Twins
from tests.tune.test_choose import contest
from tests.tune.toy import QUICK, Norm, spin
from tests.tune.worked import Worked, lucky_once, own_clock, steady
from twinkle_tune import tune_model
from twinkle_tune.capture.step import make_steps
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.measure.clock import CpuClock
from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Measurement, Rejection, Selection, Trial
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.terms import Terms
from twinkle_tune.tune import settle
from twinkle_tune.tune.confirm import confirmed, next_confirmed
from twinkle_tune.tune.events import Event, Listener, WinnerTimedAgain, nobody
from twinkle_tune.tune.executor import Executor
from twinkle_tune.tune.holding import drive
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.runner_up import behind, runners_up, with_winner
from twinkle_tune.tune.task import Task


def held(times_us: Mapping[str, tuple[float, ...]], winner: str) -> Contest:
    """A contest with these times, the original's 100 in each of nine rounds; "broken" was refused."""
    original = (100.0,) * 9
    made = contest("Norm", original_us=100.0)
    trials = [Trial(candidate=n, source="impl", digest=n, outcome=_measured(t)) for n, t in times_us.items()]
    broken = Trial(candidate="broken", source="impl", digest="b", outcome=Rejection(stage="parity", reason="wrong"))
    first = Trial(candidate=ORIGINAL, source="original", digest="o", outcome=_measured(original))
    bare = replace(made, trials=(first, *trials, broken))
    return with_winner(replace(bare, selection=Selection(winner=ORIGINAL, reason="")), winner)


def _measured(times_us: tuple[float, ...]) -> Measurement:
    return Measurement(times_us=times_us, first_call_us=1.0)


FOUR = {"best": (80.0,) * 9, "third": (90.0,) * 9, "second": (85.0,) * 5, "close": (79.0,) * 9}


def test_the_next_best_come_in_their_order() -> None:
    """By the median of the rounds that each was in, those that left early too; the winner, though slower, not again."""
    assert runners_up(held(FOUR, "best"), 0.02) == ("close", "second", "third")
    assert behind(held(FOUR, "best"), 0.02) == ("second", "third")
    assert runners_up(held(FOUR, ORIGINAL), 0.02) == ()


@pytest.mark.parametrize(
    "times_us",
    [(99.0,) * 9, (100.0,) * 9, (85.0,) * 5 + (101.0,) * 4, (130.0,) * 3],
    ids=["gains too little", "equal", "its interval reaches beyond 1", "slower"],
)
def test_who_was_not_worth_choosing_has_no_turn(times_us: tuple[float, ...]) -> None:
    """A gain below the least one, or one that may be none, is no reason to time anybody again."""
    assert runners_up(held({"best": (80.0,) * 9, "other": times_us}, "best"), 0.02) == ()


class Scripted(Executor):
    """An executor whose second races end as a script says: the ratio of each candidate, 1.0 where it does not win."""

    def __init__(self, ratios: Mapping[str, float]) -> None:
        self.ratios = ratios
        self.raced: list[str] = []

    def hold(self, task: Task, listener: Listener) -> Contest:
        """The race of two."""
        assert task.again
        original, candidate = (c.name for c in task.candidates)
        assert original == ORIGINAL
        self.raced.append(candidate)
        ratio = self.ratios[candidate]
        made = held({candidate: (100.0 * ratio,) * 9}, candidate if ratio < 1 else ORIGINAL)
        if ratio < 1:
            return made
        return replace(made, selection=Selection(winner=ORIGINAL, rounds=30, reason=f"{candidate} was too slow"))

    @property
    def elsewhere(self) -> str:
        """Where."""
        return "in a script"


class Named:
    """A source that is never loaded."""

    kind = "impl"


def task(deadline_s: float | None = None) -> Task:
    """The task of :func:`held`."""
    source: Any = Named()
    observation: Any = None
    names = (ORIGINAL, *FOUR, "broken")
    return Task(
        observation=observation,
        candidates=tuple(Candidate(name=name, source=source) for name in names),
        terms=Terms(mode=Mode.INFERENCE, device="cpu", settings=QUICK),
        deadline_s=deadline_s,
    )


def raced(rule: Any, found: Contest, asked: Task, executor: Scripted, listener: Any = nobody) -> Any:
    """What :func:`confirmed` or :func:`next_confirmed` comes to with an executor."""
    return drive(executor, rule(found, asked, executor.elsewhere, listener), listener)


def test_the_runner_up_wins_where_the_winner_does_not_win_again() -> None:
    """It has its own second race, whose figures count, and the reason tells whose place it has."""
    executor, events = Scripted({"best": 1.0, "close": 0.93}), list[Event]()
    made = raced(confirmed, held(FOUR, "best"), task(), executor, events.append)
    assert (made.selection.winner, made.selection.ratio) == ("close", 0.93)
    assert executor.raced == ["best", "close"]
    assert [event.candidate for event in events if isinstance(event, WinnerTimedAgain)] == ["best", "close"]
    assert "timed again in a script; 21.0% at first; runner-up: not confirmed: best took 0.800" in made.selection.reason
    assert [trial.candidate for trial in made.confirmation][:2] == [ORIGINAL, "close"]


def test_after_two_runners_up_the_original_stays() -> None:
    """Three races at most; the reason tells of each."""
    executor = Scripted(dict.fromkeys(FOUR, 1.0))
    made = raced(confirmed, held(FOUR, "best"), task(), executor)
    assert made.selection.winner == ORIGINAL
    assert executor.raced == ["best", "close", "second"]
    assert made.selection.reason.startswith("not confirmed: best took 0.800")
    assert made.selection.reason.count("not confirmed: ") == 3


def test_a_confirmed_winner_needs_no_runner_up() -> None:
    """The winner that wins again is the end of it."""
    executor = Scripted({"best": 0.81})
    assert raced(confirmed, held(FOUR, "best"), task(), executor).selection.winner == "best"
    assert executor.raced == ["best"]


def test_without_time_nobody_is_timed_again() -> None:
    """A budget that is used up leaves the original."""
    executor = Scripted({})
    made = raced(confirmed, held(FOUR, "best"), task(deadline_s=0.0), executor)
    assert (made.selection.winner, executor.raced) == (ORIGINAL, [])
    assert "the time budget left none" in made.selection.reason


def test_the_one_behind_a_confirmed_winner_is_asked_once() -> None:
    """Not who was faster at first, which may have lost before; None where it does not win, or nobody is there."""
    executor = Scripted({"second": 0.9})
    made = raced(next_confirmed, held(FOUR, "best"), task(), executor)
    assert made is not None
    assert (made.selection.winner, executor.raced) == ("second", ["second"])
    assert raced(next_confirmed, held(FOUR, "best"), task(), Scripted({"second": 1.0})) is None
    assert raced(next_confirmed, held({"best": (80.0,) * 9}, "best"), task(), Scripted({})) is None


def tuned(model: nn.Module, x: torch.Tensor, *impls: Any, cls: type[Norm] = Norm, **options: Any) -> Profile:
    """A profile in which these compete for the norms of a class."""
    registry = Registry()
    register_external_layer(cls, "Norm", registry=registry)
    for impl in impls:
        register_layer_kernel("Norm", layer_impl=impl, device="cpu", registry=registry)
    return tune_model(model, x, registry=registry, settings=QUICK, candidates=["impl"], **options)


def test_a_winner_of_one_process_alone_gives_way_to_a_steady_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In real worker processes: what is fast in the first alone does not win, and what is fast in both does."""
    own_clock(monkeypatch, tmp_path / "first")
    again: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, WinnerTimedAgain):
            again.append(event.candidate)

    with Isolated() as executor:
        profile = tuned(
            nn.Sequential(Worked(16)), torch.randn(8, 16), lucky_once, steady, cls=Worked, executor=executor,
            on_event=listen,
        )  # fmt: skip
    (found,) = profile.contests
    assert found.selection.winner == "impl:steady"
    assert again == ["impl:lucky_once", "impl:steady"]
    assert "runner-up: not confirmed: impl:lucky_once took 0." in found.selection.reason
    assert "but timed again in another process: " in found.selection.reason


def test_a_winner_that_is_slow_in_the_model_gives_way_to_a_steady_one() -> None:
    """What is fast alone and slow in the model is taken back, its runner-up is timed in the model and stays."""
    Thrashing.last = None
    torch.manual_seed(0)
    profile = tuned(Twins(), torch.randn(8, 32), Thrashing.forward, steady)
    (found,) = profile.contests
    assert found.selection.winner == "impl:steady"
    assert "runner-up: taken back: with it the whole step" in found.selection.reason
    own, its = (trial.outcome for trial in found.confirmation)
    assert isinstance(own, Measurement)
    assert isinstance(its, Measurement)
    assert found.selection.ratio == pytest.approx(paired_ratio(its.times_us, own.times_us).ratio, abs=0.001)
    # Of the fastest rounds: on a busy machine the others may scatter.
    assert min(profile.steps[0].tuned_us) < min(profile.steps[0].original_us)


def test_a_runner_up_that_is_slow_in_the_model_too_leaves_the_original() -> None:
    """Each place is asked once: the run ends, with the original."""

    def also(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        spin(40)
        return Thrashing.forward(self, x)

    Thrashing.last = None
    torch.manual_seed(0)
    profile = tuned(Twins(), torch.randn(8, 32), Thrashing.forward, also)
    (found,) = profile.contests
    assert found.selection.winner == ORIGINAL
    assert found.selection.reason.startswith("taken back: with it the whole step")


def test_a_run_that_is_late_asks_for_nobody() -> None:
    """When time is out a taken-back winner leaves the original at once."""
    asked: list[str] = []
    model, x = Twins(), torch.randn(8, 32)
    whole = settle.Whole(
        model=model,
        steps=make_steps(model, x, Mode.INFERENCE, "cpu"),
        clock=CpuClock(),
        registry=Registry(),
        tell=lambda event: None,
        seed=0,
        runner_up=lambda lost: asked.append(lost.slot.name),
        ends_s=0.0,
    )
    won = contest("Norm", original_us=100.0, ratio=0.8)
    lost = replace(won, selection=Selection(winner=ORIGINAL, reason="taken back"))
    profile = replace(fabricate.empty(), contests=(lost,))
    assert whole._with_runners_up((won,), profile, set()) == profile
    assert asked == []
    replace(whole, ends_s=None)._with_runners_up((won,), profile, set())
    assert asked == ["Norm"]
