"""A way that won a step runs at other sizes where it was seen not to lose there, and these are tried last."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.strategy.planted import compiled_by
from tests.told import Told, told_clock
from tests.tune.toy import QUICK
from twinkle_tune import tune_model
from twinkle_tune.contest import model as model_stage
from twinkle_tune.kernel import Registry
from twinkle_tune.profile.schema import Profile
from twinkle_tune.profile.store import Store
from twinkle_tune.tune.budget import Budget
from twinkle_tune.tune.events import Event, SizesTried, StepStarted, WaysTimed
from twinkle_tune.tune.neighbour import Neighbour
from twinkle_tune.tune.progress import Lines

clock = Told()
X = torch.arange(32).reshape(4, 8)


class Slow(nn.Module):
    """Twice its input, after 400 µs where it is not compiled."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, columns) to the same."""
        if not torch.compiler.is_compiling():
            clock.us += 400
        return x * 2.0


def tuned(
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[[Tensor], Tensor],
    budget_s: float | None = None,
    store: Store | None = None,
    neighbour: Neighbour | None = None,
) -> tuple[Profile, list[Event]]:
    """A profile of the slow module, whose graphs are compiled to a call of their last input, and what was told."""
    events: list[Event] = []
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    monkeypatch.setattr(sys.modules[__name__], "clock", told_clock(monkeypatch))
    compiled_by(monkeypatch, lambda graph: lambda *args: (run(args[-1]),))
    made = tune_model(
        Slow(), X, registry=Registry(), settings=QUICK, candidates=["original"], ways=True, budget_s=budget_s,
        store=store, on_event=events.append, neighbour=neighbour,
    )  # fmt: skip
    return made, events


def sizes_of(profile: Profile) -> set[tuple[int, ...]]:
    """Of the inputs of all calls for which the one way of a profile is shown."""
    (setup,) = profile.setups
    specs: list[Any] = [dict(call.workload.kwargs)["x"] for call in setup.calls]
    return {spec.shape for spec in specs}


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize(
    ("rows", "shown"),
    [(0, {(4, 8), (4, 2), (8, 8), (4, 12)}), (8, {(4, 8), (4, 2), (4, 12)})],
    ids=["nowhere", "with more rows"],
)
def test_a_way_is_shown_where_it_does_not_lose(
    rows: int, shown: set[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At sizes at which it takes longer than the original it is not bound; the step that it won stays its own."""

    def run(x: Tensor) -> Tensor:
        clock.us += 900 if x.shape[0] == rows else 10
        return x * 2.0

    made, events = tuned(monkeypatch, run)
    assert sizes_of(made) == shown
    (told,) = [event for event in events if isinstance(event, SizesTried)]
    assert (told.tried, told.shown) == (3, len(shown) - 1)


@pytest.mark.usefixtures("compiled_anew")
def test_other_sizes_come_after_who_wins_and_before_all_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last check of the whole model is of what will be bound: with the calls of all sizes."""
    _, events = tuned(monkeypatch, lambda x: x * 2.0)
    told = [type(event) for event in events if isinstance(event, (WaysTimed, SizesTried, StepStarted))]
    assert told == [StepStarted, WaysTimed, SizesTried, StepStarted]


@pytest.mark.usefixtures("compiled_anew")
def test_a_run_whose_time_is_over_has_the_winner_without_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's own call is bound; what no time was left for runs as the original does."""
    monkeypatch.setattr(Budget, "sizes_end_s", lambda self, compile_s: time.monotonic())
    made, events = tuned(monkeypatch, lambda x: x * 2.0, budget_s=600.0)
    assert sizes_of(made) == {(4, 8)}
    (told,) = [event for event in events if isinstance(event, SizesTried)]
    said: list[str] = []
    Lines(said.append)(told)
    assert said == ["forward 4x8: compile at no other size, for want of time"]


@pytest.mark.usefixtures("compiled_anew")
def test_sizes_that_were_cut_short_are_tried_another_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a run had no time for is no answer: the next one tries it, and the one after takes it from the store."""
    shown = []
    for ends_at in (0.0, None, None):
        with monkeypatch.context() as patched:
            if ends_at is not None:
                patched.setattr(Budget, "sizes_end_s", lambda self, compile_s: time.monotonic())
            made, events = tuned(patched, lambda x: x * 2.0, 600.0, Store(tmp_path / "s"))
        shown.append((len(sizes_of(made)), sum(isinstance(event, SizesTried) for event in events)))
    assert shown == [(1, 1), (4, 1), (4, 0)]


@pytest.mark.usefixtures("compiled_anew")
def test_a_run_from_a_neighbour_leaves_other_sizes_to_a_second_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first one binds the way for the inputs' sizes, where it was shown here, and says so; the second one, which
    has the rest from the store, tries the others. Without a store the first one does."""
    there, _ = tuned(monkeypatch, lambda x: x * 2.0)
    neighbour = Neighbour(profile=there, whose="x")
    found = []
    for store in (True, True, False):
        made, _ = tuned(
            monkeypatch, lambda x: x * 2.0, store=Store(tmp_path / "s") if store else None, neighbour=neighbour
        )
        assert made.run is not None
        found.append((len(sizes_of(made)), made.run.started_from.partition("in its way")[2]))
    assert found == [(1, ", 1 at the inputs' sizes alone: the same command once more tries others"), (4, ""), (4, "")]
