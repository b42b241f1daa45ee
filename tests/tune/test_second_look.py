"""A way that seemed to gain and that noise left open is timed once more, alone with the original."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.strategy.planted import compiled_by
from twinkle_tune.capture.held_out import tried_steps
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.mode import Mode
from twinkle_tune.profile.setup import CompiledStep
from twinkle_tune.terms import Terms
from twinkle_tune.tune.way_contest import Hall, WayContest
from twinkle_tune.tune.ways import time_ways

Figures = dict[str, tuple[float, float]]
"""Of each way its ratio and the upper end of the interval."""
OPEN, CLEAR = (0.8, 1.1), (0.8, 0.9)


class Block(nn.Module):
    """A block, of which a model repeats many."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 8) to the same."""
        made: Tensor = x + self.layers(x)
        return made


@pytest.mark.parametrize(
    ("first", "again", "timed_again", "won"),
    [
        ({"compile": OPEN, "compile blocks": (0.99, 1.1)}, CLEAR, "compile", "compile"),
        ({"compile": OPEN, "compile blocks": (0.99, 1.1)}, (0.99, 1.02), "compile", None),
        ({"compile": CLEAR, "compile blocks": (0.95, 1.1)}, None, "", "compile"),
        ({"compile": OPEN, "compile blocks": (0.95, 0.97)}, CLEAR, "compile", "compile"),
        ({"compile": OPEN, "compile blocks": (0.95, 0.97)}, (1.0, 1.1), "compile", "compile blocks"),
        ({"compile": (0.99, 1.1), "compile blocks": (1.01, 1.1)}, None, "", None),
    ],
    ids=["it gains", "it does not", "who gains is known", "more than the clear one", "less than it", "none seemed to"],
)
def test_what_noise_left_open_is_timed_again(
    first: Figures,
    again: tuple[float, float] | None,
    timed_again: str,
    won: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For as long as all compiling took; the second figure alone decides, and the price stays that of compiling."""
    asked: list[tuple[str, float | None]] = []

    def timed(
        self: Any, names: Sequence[str], *, beside: str = "", seconds: float | None = None, ends_s: float | None = None
    ) -> dict[str, Any]:
        asked.extend((name, seconds) for name in names)
        figures = first if seconds is None else dict.fromkeys(names, again)
        for name in names:
            ratio, high = figures.get(name) or (1.2, 1.3)
            step = CompiledStep(label="forward", way=name, ratio=ratio, low=0.5, high=high, original_us=(1.0,))
            self.found.append(replace(step, compile_s=15.0 if seconds is None else 0.1))
        return {}

    monkeypatch.setattr(WayContest, "_timed", timed)
    monkeypatch.setattr(WayContest, "_is_right_again", lambda self, way: True)
    model = nn.Sequential(Block(), Block())
    tried = tried_steps(model, torch.randn(4, 8), Mode.INFERENCE, "cpu")
    terms = Terms(mode=Mode.INFERENCE, device="cpu")
    hall = Hall(model=model, clock=clock_for("cpu"), terms=terms, seconds=9.0)
    found = time_ways(hall, tried[:1], lambda event: None)
    looked = [(name, seconds) for name, seconds in asked if seconds is not None]
    ways_timed = {step.way for step in found.compiled}
    assert looked == ([(timed_again, 15.0 * len(ways_timed))] if timed_again else [])
    assert [setup.way for setup in found.setups] == ([won] if won else [])
    assert {step.compile_s for step in found.compiled} == {15.0}
    assert len(found.compiled) == len(ways_timed)


@pytest.mark.parametrize(("last_s", "seconds"), [(1300.0, 9.0), (1055.0, None), (0.0, None)])
def test_a_second_look_may_come_after_the_step_s_part(
    last_s: float, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What compiling took is spent: nine seconds more may tell what it gains, where contests have so long."""
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr("twinkle_tune.tune.way_contest.time.monotonic", lambda: clock.now_s)
    looked: list[tuple[float | None, float | None]] = []

    def timed(
        self: Any, names: Sequence[str], *, beside: str = "", seconds: float | None = None, ends_s: float | None = None
    ) -> dict[str, Any]:
        clock.now_s += 60.0
        if seconds is not None:
            looked.append((seconds, ends_s))
        for name in names:
            step = CompiledStep(label="forward", way=name, ratio=0.8, low=0.5, high=1.1, original_us=(1.0,))
            self.found.append(replace(step, compile_s=15.0))
        return {}

    monkeypatch.setattr(WayContest, "_timed", timed)
    model = nn.Sequential(Block(), Block())
    tried = tried_steps(model, torch.randn(4, 8), Mode.INFERENCE, "cpu")
    terms = Terms(mode=Mode.INFERENCE, device="cpu")
    hall = Hall(model=model, clock=clock_for("cpu"), terms=terms, seconds=9.0, ends_s=1050.0, last_s=last_s)
    time_ways(hall, tried[:1], lambda event: None)
    assert looked == ([] if seconds is None else [(seconds, last_s)])


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize(("left_s", "took", "begun"), [(5.0, {}, False), (5.0, {"x": 1.0}, True), (60.0, {}, True)])
def test_what_cannot_be_compiled_in_time_is_not_begun(
    left_s: float, took: dict[str, float], begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody interrupts a compiler: less is left than it took in an earlier step, or may take in the first."""
    graphs = compiled_by(monkeypatch)
    model = nn.Sequential(Block(), Block()).eval()
    (tried,) = tried_steps(model, torch.randn(4, 8), Mode.INFERENCE, "cpu")
    hall = Hall(
        model=model,
        clock=clock_for("cpu"),
        terms=Terms(mode=Mode.INFERENCE, device="cpu"),
        seconds=0.0,
        ends_s=time.monotonic() + left_s,
        took=dict(took),
    )
    found = time_ways(hall, [replace(tried, held_out=(), between=())], lambda event: None)
    assert bool(graphs) is begun
    late = "not tried: the time budget leaves less than compiling it may take"
    assert (found.compiled[0].problem == late) is not begun
    assert ("compile" in hall.took) is begun
