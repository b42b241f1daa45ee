"""What every stage of a contest does alike, so that one loop serves them all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.tune.blocks import SHORT, Stack, inside, observed, opaque, registry_of, task_of
from tests.tune.toy import spin
from twinkle_tune.capture.step import make_steps
from twinkle_tune.contest.block import BlockStage
from twinkle_tune.contest.call import CallStage
from twinkle_tune.contest.contest import contest
from twinkle_tune.contest.model import ModelStage, Way
from twinkle_tune.contest.stage import Entrant, Named, Stage
from twinkle_tune.contest.watch import Unwatched
from twinkle_tune.kernel.patch import Binding
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.measure.run import hold
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Measurement, Phase, Rejection
from twinkle_tune.profile.schema import Found, TimedOn
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.terms import Terms

X = torch.randn(4, 8)


TERMS = Terms(mode=Mode.INFERENCE, device="cpu", settings=SHORT)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A stage with a candidate that is right and one that is wrong, by the ends of their names."""

    stage: Stage[Any]
    candidates: tuple[Named, ...]
    timed_on: TimedOn | None = None
    right: str = "opaque"
    wrong: str = "twice"

    def named(self, end: str) -> Named:
        """The candidate whose name ends so."""
        (found,) = (candidate for candidate in self.candidates if candidate.name.endswith(end))
        return found


def twice(self: Any, x: torch.Tensor) -> torch.Tensor:
    """A wrong gain."""
    spin(50.0)
    return torch.mul(x, self.weight) * 2


def of_a_slot(mode: Mode, make: Callable[..., Stage[Any]], timed_on: TimedOn | None = None) -> Case:
    """The gain in its blocks."""
    registry = registry_of(opaque, twice)
    task = task_of(inside(observed(Stack(), X, registry)), registry, mode)
    return Case(stage=make(task.observation, task.terms), candidates=task.candidates, timed_on=timed_on)


def of_a_model() -> Case:
    """A step of the model with its gains bound to others."""
    model = Stack()
    (step,) = make_steps(model, X, Mode.INFERENCE, "cpu")
    ways = [Way(name=ORIGINAL, source=ORIGINAL, runner=model)]
    for call in (opaque, twice):
        binding = Binding(slot="Scale", path="last", candidate=call.__name__, rows="all")
        plan = Plan(layers=((model.last, call, binding),))
        ways.append(Way(name=call.__name__, source="winners", runner=model, plan=plan))
    return Case(stage=ModelStage(model, step, clock_for("cpu"), seed=0, seconds=0.1), candidates=tuple(ways))


CASES: dict[str, Callable[[], Case]] = {
    "call": lambda: of_a_slot(Mode.INFERENCE, CallStage),
    "model": of_a_model,
    "block": lambda: of_a_slot(Mode.COMPILE, BlockStage, TimedOn(block="Layer", path="layers.0", calls=2)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Each stage, with graphs that are run as they are."""
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda graph, inputs, **options: graph.forward)
    torch._dynamo.reset()
    with torch.no_grad():
        yield CASES[request.param]()
    torch._dynamo.reset()


def held(case: Case, **options: Any) -> Found:
    """The contest of all candidates."""
    return contest(case.stage, case.candidates, TERMS, watch=Unwatched(), tell=lambda event: None, **options)


def test_it_enters_the_original_and_who_is_right(case: Case) -> None:
    """Both have made their first call; the original is judged by nobody, the other one passes, then and after calls."""
    begun: list[Phase] = []
    original = case.stage.enter(case.named(ORIGINAL), begun.append)
    entrant = case.stage.enter(case.named(case.right), begun.append)
    assert begun[-1] == "first call"
    assert isinstance(original, Entrant)
    assert original.judge is None
    assert isinstance(entrant, Entrant)
    assert min(original.first_call_us, entrant.first_call_us) > 0
    assert entrant.judge is not None
    assert entrant.again is not None
    for verdict in (entrant.judge(), entrant.again()):
        assert type(verdict).__name__ == "Pass"


def test_it_times_who_is_right_and_refuses_who_is_wrong(case: Case) -> None:
    """The original and the right one have as many times and a digest or kind each; the wrong one is out for that."""
    found = held(case)
    outcomes = {trial.candidate: trial.outcome for trial in found.trials}
    assert list(outcomes) == [candidate.name for candidate in case.candidates]
    original, right = outcomes[ORIGINAL], outcomes[case.named(case.right).name]
    wrong = outcomes[case.named(case.wrong).name]
    assert isinstance(original, Measurement)
    assert isinstance(right, Measurement)
    assert 0 < len(right.times_us) <= len(original.times_us)
    assert isinstance(wrong, Rejection)
    assert (wrong.stage, wrong.cause) == ("parity", "wrong")
    assert found.selection.status in ("won", "kept", "no clear winner")


def test_it_says_what_the_times_are_of(case: Case) -> None:
    """The slot's own call is None; of anything else the record says what was timed."""
    assert held(case).timed_on == case.timed_on


def test_out_of_time_only_the_original_is_called(case: Case) -> None:
    """Its time is taken, nobody else is begun, and the selection says so."""
    found = held(case, ends_s=0.0)
    assert found.selection.status == "not tried"
    assert [isinstance(trial.outcome, Measurement) for trial in found.trials] == [True, False, False]


def test_the_race_of_what_was_begun_in_time_has_its_least_seconds(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way of running the model is compiled at its first call, for most of the time: it is timed all the same."""
    moments = itertools.count(1000.0)
    monkeypatch.setattr("twinkle_tune.contest.contest.now_s", lambda: next(moments))
    given: list[float] = []

    def told(*args: Any, deadline_s: float, **options: Any) -> Any:
        given.append(deadline_s)
        return hold(*args, deadline_s=0.0, **options)

    monkeypatch.setattr("twinkle_tune.contest.contest.hold", told)
    case.stage.race_s = 9.0
    # One reading at the begin, one before each turn and each candidate that enters: over before the race.
    held(case, ends_s=1005.5)
    assert given == [case.stage.least_race_s]
    assert ModelStage.least_race_s == 3.0
