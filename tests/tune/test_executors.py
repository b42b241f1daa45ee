"""What every executor does, wherever it holds contests: in this process, in a worker process, on a Ray cluster."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.tune.toy import Norm, norm
from twinkle_tune.capture.capture import capture
from twinkle_tune.capture.step import make_steps
from twinkle_tune.contest.events import RoundTimed, TrialRefused, TrialStarted
from twinkle_tune.environment import current_environment
from twinkle_tune.fleet.ray_devices import RayDevices, connect
from twinkle_tune.fleet.spread import Spread
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Measurement, Rejection, Untimed
from twinkle_tune.profile.schema import Contest
from twinkle_tune.terms import Terms
from twinkle_tune.tune.events import Event
from twinkle_tune.tune.executor import Executor
from twinkle_tune.tune.in_process import InProcess
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.task import Task

HERE = current_environment("cpu")
TERMS = Terms(mode=Mode.INFERENCE, device="cpu", settings=RaceSettings(max_rounds=9, min_gain=0.99))
WITHOUT_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


class Shy(Norm):
    """A norm that refuses once it is told to."""

    refuses = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) to (..., width)."""
        if self.refuses:
            raise RuntimeError("not today")
        return norm(self, x)


def fine(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A right candidate."""
    return norm(self, x)


def wrong(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A wrong one."""
    return norm(self, x) + 1


def raising(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """One that cannot be called."""
    raise ValueError("no such call")


def tasks(count: int = 3) -> list[Task]:
    """Contests of norms of several widths, from number 1."""
    registry = Registry()
    register_external_layer(Shy, "Shy", registry=registry)
    for impl in (fine, wrong, raising):
        register_layer_kernel("Shy", layer_impl=impl, device="cpu", registry=registry)
    made = []
    for index in range(1, count + 1):
        torch.manual_seed(0)
        model = nn.Sequential(Shy(8 * index))
        steps = make_steps(model, torch.randn(4, 8 * index), Mode.INFERENCE, "cpu")
        (seen,) = capture(model, steps, find_slots(model, registry), "cpu").observations
        rivals = contestants(seen.occurrence, "cpu", Mode.INFERENCE, registry)
        chosen = tuple(c for c in rivals if c.source.kind in ("original", "impl"))
        made.append(
            Task(observation=seen, candidates=chosen, terms=TERMS, index=index, environment=HERE.fingerprint)
        )  # fmt: skip
    return made


@pytest.fixture(
    scope="module",
    params=[
        "this process",
        "a worker process",
        pytest.param("Ray", marks=[pytest.mark.slow, WITHOUT_RAY]),
    ],
)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Each of them."""
    match request.param:
        case "this process":
            yield InProcess()
        case "a worker process":
            with Isolated() as apart:
                yield apart
        case _:
            ray = connect(None, {"twinkle:cpu:one": 1, "twinkle:cpu:two": 1})
            with Spread(RayDevices(ray=ray, wanted=HERE, limits=Limits())) as spread:
                yield spread
            ray.shutdown()


def run(executor: Executor, given: Any) -> tuple[dict[int, Contest], list[Event]]:
    """The contests by their indexes, and what was told."""
    events: list[Event] = []
    found = dict(executor.run(given, events.append))
    return found, events


def test_each_task_comes_back_as_its_contest(executor: Executor) -> None:
    """By its index, of its call, with an outcome for each candidate and the environment that it was held in."""
    asked = tasks()
    found, _ = run(executor, asked)
    assert sorted(found) == [1, 2, 3]
    for task in asked:
        contest = found[task.index]
        assert contest.workload == task.observation.workload
        assert contest.environment == HERE.fingerprint
        outcomes = {trial.candidate.rpartition(":")[2]: trial.outcome for trial in contest.trials}
        assert [*outcomes] == ["original", "fine", "wrong", "raising"]
        assert isinstance(outcomes["fine"], Measurement)
        assert isinstance(outcomes["wrong"], Rejection)
        assert outcomes["wrong"].cause == "wrong"
        assert isinstance(outcomes["raising"], Rejection)
        assert "no such call" in outcomes["raising"].reason


def test_events_say_of_which_contest_they_are(executor: Executor) -> None:
    """Each carries the index of its contest; of a second race the rounds are told and nothing else."""
    first, second = tasks(2)
    _, events = run(executor, [replace(first, index=7), replace(second, index=9, again=True)])
    of_contests = [event for event in events if isinstance(event, (TrialStarted, TrialRefused, RoundTimed))]
    assert {type(event) for event in of_contests if event.index == 7} == {TrialStarted, TrialRefused, RoundTimed}
    assert {type(event) for event in of_contests if event.index == 9} == {RoundTimed}
    assert {event.index for event in of_contests} == {7, 9}


def test_an_answer_may_bring_about_more_tasks(executor: Executor) -> None:
    """None in the place of a task is no end: what is asked for after an answer is run as well."""
    first, second = tasks(2)
    answered: list[int] = []

    def asking() -> Iterator[Task | None]:
        yield first
        while not answered:
            yield None
        yield second

    for index, _ in executor.run(asking(), lambda event: None):
        answered.append(index)
    assert answered == [1, 2]


def test_an_original_that_fails_ends_its_own_contest_alone(executor: Executor) -> None:
    """It is inconclusive and says why; the others are held."""
    asked = tasks()
    broken: Any = asked[1].observation.module
    broken.refuses = True
    found, _ = run(executor, asked)
    assert found[2].status == "inconclusive"
    assert "not today" in found[2].selection.reason
    assert found[2].trials == ()
    assert all(found[index].trials for index in (1, 3))


def test_without_time_no_rival_is_begun(executor: Executor) -> None:
    """A deadline that is over leaves the original's own time, and says so of the rivals."""
    (task,) = tasks(1)
    found, _ = run(executor, [replace(task, deadline_s=0.0)])
    original, *rivals = (trial.outcome for trial in found[1].trials)
    assert isinstance(original, Measurement)
    assert all(isinstance(outcome, Untimed) for outcome in rivals)
