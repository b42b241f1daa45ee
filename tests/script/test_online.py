"""A race inside of a script's own steps: who is faster stays, equals never switch, who is wrong never runs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.capture.tiny_models import inputs_of, tiny
from tests.zoo.quick import Quick
from twinkle_tune import kernelize_report, register_layer_kernel
from twinkle_tune.kernel.patch import Binding
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.mode import Mode
from twinkle_tune.script import rivals
from twinkle_tune.script.online import Online
from twinkle_tune.script.outermost import _plain
from twinkle_tune.script.rivals import rivals_of
from twinkle_tune.script.tuning import tuned
from twinkle_tune.script.turns import Turns
from twinkle_tune.script.watch import Watch
from twinkle_tune.slot import ORIGINAL

X = torch.ones(2, 4)


class Told:
    """A clock that tells times by whose turn it is, with noise of its own."""

    def __init__(self, ratio: float, seed: int, noise: float = 0.05) -> None:
        self.ratio, self.noise, self.chance = ratio, noise, random.Random(seed)
        self.race: Online | None = None
        self.asked = 0

    def mark(self) -> int:
        """Nothing."""
        return 0

    def between_us(self, begin: int, end: int) -> float:
        """100, or the rival's share of it."""
        self.asked += 1
        assert self.race is not None
        assert self.race._turns is not None
        ratio = 1.0 if self.race._turns.turn == ORIGINAL else self.ratio
        return 100 * ratio * self.chance.lognormvariate(0, self.noise)


class Doubled(nn.Module):
    """A layer, and who ran it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.ran: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 4) to (rows, 4)."""
        self.ran.append(ORIGINAL)
        return x * self.weight


def planted(model: Doubled) -> Mapping[str, Plan]:
    """A rival that says that it runs."""

    def other(self: Any, x: Tensor) -> Any:
        self.ran.append("rival")
        return x * self.weight

    binding = Binding(slot="Doubled", path="", candidate="rival", rows="all")
    return {"rival": Plan(layers=((model, other, binding),))}


def raced(ratio: float, seed: int, steps: int, *, trains: bool = False, noise: float = 0.05) -> tuple[Doubled, str]:
    """A script of so many steps, with a rival that takes so much of the original's time."""
    model = Doubled().train(trains)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    clock, told = Told(ratio, seed, noise), list[str]()
    clock.race = Online(model, lambda: planted(model), told.append, trains=trains, clock=clock, seed=seed)
    clock.race.begin()
    for _ in range(steps):
        with torch.set_grad_enabled(trains):
            for _part in range(2 if trains else 1):
                out = model(X)
                if trains:
                    out.sum().backward()
        optimizer.step()
    clock.race.end()
    assert nn.Module.__call__ is _plain
    (line,) = told
    return model, line


@pytest.mark.parametrize("trains", [False, True])
def test_a_faster_rival_stays(trains: bool) -> None:
    """One that takes 80% of a step runs after 60 steps at most, in each of 20 seeded runs; parts of a step are one."""
    for seed in range(20):
        model, line = raced(0.8, seed, 70, trains=trains)
        last = 20 if trains else 10
        assert model.ran[-last:] == ["rival"] * last, seed
        assert "rival stays" in line
        pairs = list(zip(model.ran[::2], model.ran[1::2], strict=True))
        assert not trains or all(one == other for one, other in pairs)


def test_faster_in_one_layer() -> None:
    """Who takes 20% less in a layer that is half of a step runs after 60 steps at most, in each of 20 seeded runs."""
    for seed in range(20):
        model, line = raced(0.9, seed, 70, noise=0.03)
        assert model.ran[-10:] == ["rival"] * 10, (seed, line)


@pytest.mark.parametrize("odd", ["evaluated", "left out"])
def test_steps_that_are_unlike_others_are_not_timed(odd: str) -> None:
    """A step in which the model is evaluated, or whose optimizer's step is left out, is run again by the same one."""
    model = Doubled().train()
    optimizer, clock = torch.optim.SGD(model.parameters(), lr=0.0), Told(0.8, 0)
    clock.race = Online(model, lambda: planted(model), print, trains=True, clock=clock)
    clock.race.begin()
    for step in range(24):
        model(X).sum().backward()
        if step % 8 != 7:
            optimizer.step()
        elif odd == "evaluated":
            optimizer.step()
            with torch.no_grad():
                model.eval()(X)
            model.train()
    clock.race.end()
    # Three steps are looked at, the last one has not ended, and two are odd; what is left out is one with the next.
    steps = 24 if odd == "evaluated" else 22
    assert clock.asked == steps - 3 - 1 - 2


def test_equals_never_switch() -> None:
    """In 100 seeded runs with a rival that is the original, the original stays, and runs at the end."""
    for seed in range(100):
        model, line = raced(1.0, seed, 140)
        assert model.ran[-1] == ORIGINAL, (seed, line)
        assert "original stays" in line
        assert not kernelize_report(model).bound


def test_too_few_steps_and_failures() -> None:
    """A script that ends early has its originals, and so has one whose rivals cannot be judged."""
    model, line = raced(0.5, 0, 2)
    assert "the originals run: 2 steps were too few" in line
    told: list[str] = []
    race = Online(model, lambda: {str(1 // 0): Plan()}, told.append, trains=False)
    race.begin()
    with torch.no_grad():
        for _ in range(6):
            model(X)
    assert told == ["Doubled, online: the originals run: ZeroDivisionError: integer division or modulo by zero"]
    assert nn.Module.__call__ is _plain


def test_an_unfinished_race_ends_with_what_is_proven() -> None:
    """With nothing proven the originals run."""
    turns = Turns(["a"], seed=1)
    turns.next()
    turns.took(100.0)
    turns.stop("the script has ended")
    assert turns.decision is not None
    assert turns.decision.winner == turns.next() == ORIGINAL


def test_who_is_wrong_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged on the script's own calls, a wrong kernel takes no part, and right ones do: each step is as it was."""
    monkeypatch.setattr(rivals, "Isolated", lambda: nullcontext(Quick()))
    monkeypatch.setattr(rivals, "tuned", partial(tuned, candidates=["torch", "impl"]))
    monkeypatch.setattr(rivals, "right_ways", lambda *_: {})  # tests/script/test_raced_kept.py has them

    def wrong(self: Any, hidden_states: Tensor) -> Tensor:
        ran.append(1)
        return hidden_states * 1.01

    ran: list[int] = []
    inputs, model = inputs_of(Mode.INFERENCE), tiny("llama")
    with torch.no_grad():
        expected = tiny("llama")(**inputs).logits
    register_layer_kernel("RMSNorm", layer_impl=wrong, device="cpu")
    watch, told = Watch(keep_inputs=True), list[str]()
    watch.begin()
    try:
        names: list[str] = []

        def judged() -> Mapping[str, Plan]:
            ((core, seen, _),) = [each for each in watch.pairs() if each[1].total > 3]
            found = rivals_of(core, seen, 60)
            assert ran  # it was looked at, on copies
            ran.clear()
            names.extend(found)
            return {name: rival.plan for name, rival in found.items()}

        race = Online(model, judged, told.append, trains=False)
        race.begin()
        with torch.no_grad():
            for _ in range(12):
                torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
        race.end()
    finally:
        watch.end()
        default_registry.clear()
    assert names, told
    assert told
    assert not ran
