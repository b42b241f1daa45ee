"""What is too little to matter is let go: contests beforehand by what they could save, winners by what they do."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from tests.told import told_clock
from tests.tune import toy
from tests.tune.test_choose import contest
from tests.tune.toy import QUICK, Norm, norm, spin
from twinkle_tune import tune_model
from twinkle_tune.capture.capture import Observation, capture
from twinkle_tune.capture.step import make_steps
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.kernel.find import find_slots
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Contest, Profile, Seen
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.source.direct import OriginalSource
from twinkle_tune.terms import Terms
from twinkle_tune.tune import little as rule
from twinkle_tune.tune import tune as tune_module
from twinkle_tune.tune.budget import Budget
from twinkle_tune.tune.events import Listener, nobody
from twinkle_tune.tune.executor import Executor
from twinkle_tune.tune.little import LEAST, TOGETHER, WORTH_MORE, Little, little_of, saved_of
from twinkle_tune.tune.run import Run, hold
from twinkle_tune.tune.task import Task

STEP_US = {"forward": 10_000.0}


def observations(count: int) -> list[Observation]:
    """So many observations of one call."""
    registry, model = Registry(), nn.Sequential(Norm(16))
    register_external_layer(Norm, "Norm", registry=registry)
    steps = make_steps(model, torch.randn(4, 16), Mode.INFERENCE, "cpu")
    (seen,) = capture(model, steps, find_slots(model, registry), "cpu").observations
    return [replace(seen, seen=(Seen(step="forward", calls=1, share=0.1),)) for _ in range(count)]


def let_go(bounds: list[float]) -> list[float]:
    """The bounds of those that are not held."""
    seen = observations(len(bounds))
    by_id = {id(o): {"forward": share} for o, share in zip(seen, bounds, strict=True)}
    found = little_of(seen, by_id, frozenset(by_id), STEP_US)
    return [found.not_held[id(o)] for o in seen if id(o) in found.not_held]


def test_what_could_save_next_to_nothing_is_not_held() -> None:
    """Below 0.3% of every step that calls it; a share of that or more is held."""
    assert let_go([0.5, LEAST, 0.0029, 0.0]) == [0.0029, 0.0]


def test_what_is_let_go_never_adds_up_to_much() -> None:
    """Of nine that could save 0.25% each the smallest that make 1% are let go, and the others are held."""
    gone = let_go([0.0025 + index * 1e-5 for index in reversed(range(9))])
    assert len(gone) == 3
    assert sum(gone) <= TOGETHER
    assert max(gone) == pytest.approx(0.00252)


def test_what_somebody_registered_is_held() -> None:
    """Whoever registers a kernel wants to know: only contests of the catalog's own candidates are let go."""
    (seen,) = observations(1)
    found = little_of([seen], {id(seen): {"forward": 0.0}}, frozenset(), STEP_US)
    assert found.unheld(seen) is None
    won = contest("Norm", original_us=1.0, ratio=0.5)
    assert not found.is_little(seen, won)
    assert found.is_worth_more(seen, won)


def test_a_contest_that_is_not_held_says_what_it_could_save() -> None:
    """As a figure, beside the words; it is no work left undone."""
    (seen,) = observations(1)
    made = little_of([seen], {id(seen): {"forward": 0.002}}, frozenset({id(seen)}), STEP_US).unheld(seen)
    assert made is not None
    assert (made.status, made.selection.most_saved, made.trials) == ("too little", 0.002, ())
    assert made.is_whole
    assert made.selection.reason == "not tried: it could save at most 0.20% of a step, which is too little to matter"


def test_a_winner_that_saves_too_little_gives_way_until_too_much_would() -> None:
    """0.2% of a step is let go five times; the sixth would make it more than 1%."""
    (seen,) = observations(1)
    won = a_fifth()  # in a step of 10 ms
    found = Little(step_us=STEP_US, ours=frozenset({id(seen)}))
    for _ in range(5):
        assert found.is_little(seen, won)
        lost = found.without_winner(won)
        assert (lost.selection.winner, lost.status) == (ORIGINAL, "too little")
        assert lost.selection.most_saved == pytest.approx(0.002)
    assert not found.is_little(seen, won)


def test_what_is_saved_goes_by_the_larger_of_two_shares() -> None:
    """The one that was seen while the model ran, and the one that its times come to."""
    won = contest("Norm", original_us=100.0, ratio=0.8, calls=2)
    assert saved_of(replace(won, seen=(Seen(step="forward", calls=2, share=0.5),)), STEP_US, 0.8) == {
        "forward": pytest.approx(0.1)
    }
    assert saved_of(won, {"forward": 250.0}, 0.8) == {"forward": pytest.approx(0.16)}


def test_other_sizes_are_looked_at_where_a_winner_saves_a_hundredth() -> None:
    """Of a size that no step calls nothing is known, and nothing kept from."""
    (seen,) = observations(1)
    found = Little(step_us=STEP_US, ours=frozenset({id(seen)}))
    won = contest("Norm", original_us=1.0, ratio=0.5)
    small, large = (
        replace(won, seen=(Seen(step="forward", calls=1, share=share),)) for share in (WORTH_MORE, 2 * WORTH_MORE)
    )
    assert [found.is_worth_more(seen, each) for each in (small, large, replace(won, seen=()))] == [
        False,
        True,
        True,
    ]


def a_fifth() -> Contest:
    """A contest of a call of 100 us, of which "fast" saves a fifth; by its own share nothing passes in it."""
    won = contest("Norm", original_us=100.0, ratio=0.8)
    return replace(won, seen=(Seen(step="forward", calls=1, share=0.0),))


class Remembering:
    """A memory of one contest, or none, and what it was given to keep."""

    def __init__(self, known: Contest | None) -> None:
        self.known, self.kept = known, list[Contest]()

    def recall(self, question: object, observation: Observation) -> Contest | None:
        """The one."""
        return self.known

    def keep(self, question: object, contest: Contest) -> None:
        """Another."""
        self.kept.append(contest)


class Winning(Executor):
    """An executor in which "fast" wins each race; ``calls`` are those that were run."""

    elsewhere = "elsewhere"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def hold(self, task: Task, listener: Listener) -> Contest:
        """A first race, or a second one."""
        self.calls.append("second" if task.again else "first")
        return a_fifth()


@pytest.mark.parametrize("recalled", [False, True])
def test_a_winner_too_little_is_not_timed_again_but_where_it_matters(recalled: bool) -> None:
    """What it won is remembered without its second race, which it has in the first run in which it is more."""
    (seen,) = observations(1)
    candidates = tuple(Candidate(name=name, source=OriginalSource()) for name in (ORIGINAL, "fast"))

    def held(known: Contest | None, step_us: float) -> tuple[Contest, list[str], list[Contest]]:
        executor, memory = Winning(), Remembering(known)
        here = replace(seen, seen=(Seen(step="forward", calls=1, share=100.0 / step_us),))
        run = Run(
            model=nn.Identity(),
            terms=Terms(mode=Mode.INFERENCE, device="cpu", settings=QUICK),
            name="m",
            wanted=None,
            budget=Budget(),
            tell=nobody,
            registry=Registry(),
            executor=executor,
            memory=cast(Any, memory),
            little=Little(step_us={"forward": step_us}, ours=frozenset({id(here)})),
        )
        made = hold(run, 1, here, candidates, cast(Any, SimpleNamespace(environment="")))
        return made, executor.calls, memory.kept

    known = a_fifth()
    little, calls, kept = held(known if recalled else None, 100_000.0)
    assert little.status == "too little"
    assert calls == ([] if recalled else ["first"])
    assert [each.selection.winner for each in kept] == ([] if recalled else ["fast"])
    large, calls, kept = held(known if recalled else None, 1_000.0)
    assert large.selection.winner == "fast"
    assert calls == (["second"] if recalled else ["first", "second"])
    assert [bool(each.confirmation) for each in kept] == [True]


SPIN = spin


class Long(nn.Module):
    """A norm, and 20 ms of other work."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, 16) to (rows, 16)."""
        spin(20_000)
        made: torch.Tensor = self.norm(x)
        return made


def profile_of(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Profile:
    """A profile of one norm that is 1% of its step, by a told clock, with a kernel as if it were one of the catalog."""
    clock = told_clock(monkeypatch)

    def spin_and_tell(time_us: float) -> None:
        SPIN(time_us)  # shares of a step are by the machine's clock
        clock.us += time_us

    for module in (toy, sys.modules[__name__]):
        monkeypatch.setattr(module, "spin", spin_and_tell)
    monkeypatch.setattr(tune_module, "is_ours", lambda *question: True)
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=norm, device="cpu", registry=registry)
    return tune_model(Long(), torch.randn(4, 16), registry=registry, settings=QUICK, candidates=["impl"], **options)


def test_a_run_lets_a_winner_go_that_saves_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where 5% of a step would be little, a norm of 1% is held no contest for; where 0.5% is, it wins its contest."""
    (won,) = profile_of(monkeypatch).contests
    assert won.selection.winner == "impl:norm"
    monkeypatch.setattr(rule, "TOGETHER", 1.0)
    monkeypatch.setattr(rule, "LEAST", 0.05)
    profile = profile_of(monkeypatch)
    (lost,) = profile.contests
    assert (lost.status, lost.trials) == ("too little", ())
    assert profile.complete
    assert profile.verdict == "Keep the original: what could be gained is too little to matter."


def test_by_memory_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the time says nothing of memory."""
    monkeypatch.setattr(rule, "TOGETHER", 1.0)
    monkeypatch.setattr(rule, "LEAST", 0.05)
    (found,) = profile_of(monkeypatch, objective="memory").contests
    assert found.trials
