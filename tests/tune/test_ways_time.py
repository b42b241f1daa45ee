"""How ways of running the whole model share the time that they have."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from twinkle_tune.capture.held_out import Tried, tried_steps
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.mode import Mode
from twinkle_tune.profile.setup import CompiledStep, Setup
from twinkle_tune.terms import Terms
from twinkle_tune.tune.budget import Budget
from twinkle_tune.tune.way_contest import Hall
from twinkle_tune.tune.ways import Ways, time_ways


def step(label: str, *, generates: bool = False) -> Tried:
    """A step that is never run."""
    (one,) = tried_steps(nn.Identity(), torch.randn(4, 8), Mode.INFERENCE, "cpu")
    made: Any = SimpleNamespace(label=label, generates=generates, optimizer=None)
    return replace(one, step=made, again=None, held_out=(), between=())


def test_each_step_has_its_part_of_the_time_text_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one step leaves of its part goes to those after it; what is found is told in the order of the steps."""
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr("twinkle_tune.tune.ways.time.monotonic", lambda: clock.now_s)
    told: list[tuple[str, float]] = []
    took_s = {"text": 40.0, "a": 5.0, "b": 1.0}

    def ask(tried: Tried, ends_s: float, hold: object) -> Ways:
        label = tried.step.label
        told.append((label, ends_s - clock.now_s))
        clock.now_s += took_s[label]
        return Ways(compiled=(CompiledStep(label=label, ratio=1.0, low=1.0, high=1.0),))

    terms = Terms(mode=Mode.INFERENCE, device="cpu")
    hall = Hall(model=nn.Identity(), clock=clock_for("cpu"), terms=terms, seconds=9.0, ends_s=1090.0)
    found = time_ways(hall, [step("a"), step("text", generates=True), step("b")], lambda event: None, ask)
    assert told == [("text", 30.0), ("a", 25.0), ("b", 45.0)]
    assert [way.label for way in found.compiled] == ["a", "text", "b"]


@pytest.mark.parametrize(
    ("won", "last_s", "expected"),
    [
        ("text", 1200.0, [("text", 30.0), ("a", 17.0), ("b", 17.0)]),
        ("text", 1101.0, [("text", 30.0), ("a", 11.0), ("b", 6.0)]),
        ("text", 0.0, [("text", 30.0), ("a", 0.0), ("b", -5.0)]),
        ("", 1200.0, [("text", 30.0), ("a", 0.0), ("b", -5.0)]),
        ("a", 1200.0, [("text", 30.0), ("a", 0.0), ("b", 17.0)]),
    ],
    ids=["a way won", "contests end before", "no more time", "no way won", "a later one won"],
)
def test_where_a_way_won_one_is_tried_in_the_steps_after_it(
    won: str, last_s: float, expected: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as compiling took for one form, and a race, though the first step took the others' part."""
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr("twinkle_tune.tune.ways.time.monotonic", lambda: clock.now_s)
    terms = Terms(mode=Mode.INFERENCE, device="cpu")
    hall = Hall(
        model=nn.Identity(), clock=clock_for("cpu"), terms=terms, seconds=9.0, ends_s=1090.0, last_s=last_s
    )  # fmt: skip
    told: list[tuple[str, float]] = []
    took_s = {"text": 90.0, "a": 5.0, "b": 1.0}

    def ask(tried: Tried, ends_s: float, hold: object) -> Ways:
        label = tried.step.label
        told.append((label, ends_s - clock.now_s))
        clock.now_s += took_s[label]
        hall.compiled(CompiledStep(label=label, way="compile", ratio=1.0, low=1.0, high=1.0, compile_s=8.0), 1)
        setup = Setup(label=label, way="compile", calls=(), model="")
        return Ways(setups=(setup,) if label == won else ())

    time_ways(hall, [step("text", generates=True), step("a"), step("b")], lambda event: None, ask)
    assert told == expected


def test_a_step_of_more_forms_takes_longer_to_compile() -> None:
    """A prompt and the tokens after it are compiled apart: what one step took says what the next one may take."""
    terms = Terms(mode=Mode.INFERENCE, device="cpu")
    hall = Hall(model=nn.Identity(), clock=clock_for("cpu"), terms=terms, seconds=9.0)
    first_s = hall.compile_s("compile", 3)
    hall.compiled(CompiledStep(label="text", way="compile", ratio=1.0, low=1.0, high=1.0, compile_s=30.0), 3)
    assert first_s == 10.0
    assert (hall.compile_s("compile", 1), hall.compile_s("compile", 3)) == (10.0, 30.0)
    assert hall.compile_s("compile blocks", 2) == 20.0


def test_kernels_and_sizes_leave_time_to_bind_the_ways_that_won(monkeypatch: pytest.MonkeyPatch) -> None:
    """What binds them compiles them again: of the rest sizes have half, and nothing where there is none."""
    monkeypatch.setattr("twinkle_tune.tune.budget.now_s", lambda: 1000.0)
    budget = Budget(ends_s=1060.0)
    assert budget.whole_end_s(20.0) == 1040.0
    assert budget.sizes_end_s(20.0) == 1020.0
    ends_s = budget.sizes_end_s(90.0)
    assert ends_s is not None
    assert ends_s < 1000.0
    assert Budget().sizes_end_s(20.0) is None
    assert Budget().whole_end_s(20.0) is None


def test_winners_alone_count_of_what_compiling_took() -> None:
    """What lost is not compiled once more."""
    won = Setup(label="a", way="compile", calls=(), model="")
    rows = [("a", "compile", 3.0), ("a", "compile blocks", 5.0), ("b", "compile", 7.0)]
    figures = tuple(
        CompiledStep(label=label, way=way, ratio=0.5, low=0.5, high=0.5, compile_s=took_s)
        for label, way, took_s in rows
    )
    assert Ways(compiled=figures, setups=(won,)).compile_s == 3.0
    assert Ways(compiled=figures).compile_s == 0.0
