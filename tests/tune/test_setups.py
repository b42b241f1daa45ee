"""Ways of running the whole model that win are in the profile, bound and told; who is wrong or gains nothing is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.catalog.catalog_families import tiny
from tests.report.fabricate import empty
from tests.strategy.planted import compiled_by
from tests.told import Told, told_clock
from tests.tune.test_choose import contest
from tests.tune.toy import QUICK, spin
from twinkle_tune import kernelize_model, kernelize_report, load_profile, restore_model, tune_model
from twinkle_tune.capture.held_out import tried_steps
from twinkle_tune.cli.recorded import Recorded
from twinkle_tune.cli.verify import verification_data
from twinkle_tune.contest import model as model_stage
from twinkle_tune.errors import TuneInterrupted
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Profile, StepResult
from twinkle_tune.profile.setup import CompiledStep, Setup
from twinkle_tune.report.head import again
from twinkle_tune.report.recommend import recommend
from twinkle_tune.report.terminal import terminal_text
from twinkle_tune.terms import Terms
from twinkle_tune.tune import setups, tried
from twinkle_tune.tune.events import ContestStarted, Event, StepStarted, WaysTimed
from twinkle_tune.tune.neighbour import Neighbour
from twinkle_tune.tune.setups import may_gain, with_setups, without_slower
from twinkle_tune.tune.verify import verify_profile
from twinkle_tune.tune.way_contest import Hall, WayContest, Won, calls_of, winner_of
from twinkle_tune.tune.ways import Ways

X = torch.randn(4, 8)
LARGE = torch.randn(256, 512)
"""Forty operations on it take milliseconds."""
clock = Told()
"""By which kernels and ways take their time together."""


class Long(nn.Module):
    """Ten operations that are one, and half a millisecond where they are not compiled."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 8) to twice the same."""
        if not torch.compiler.is_compiling():
            time.sleep(0.0005)  # operations instead would be traced again and again, which is what takes long
        for _ in range(10):
            x = x * 1.0
        return x * 2.0


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, compiled_anew: None) -> None:
    """Few rounds, and nothing compiled before and after."""
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)


def tuned(monkeypatch: pytest.MonkeyPatch, made: Callable[..., Any], **options: Any) -> Profile:
    """A profile of the long model whose graphs are compiled to a call of their inputs."""
    compiled_by(monkeypatch, lambda graph: made)
    chosen: dict[str, Any] = {
        "registry": Registry(),
        "settings": QUICK,
        "candidates": ["original"],
        "ways": True,
    }
    return tune_model(Long(), X, **(chosen | {"ways": True} | options))


def twice(*args: Any) -> tuple[Tensor]:
    """What the long model computes, at once."""
    return (args[-1] * 2.0,)


def late(*args: Any) -> tuple[Tensor]:
    """The same, long after."""
    time.sleep(0.02)
    return twice(*args)


def test_a_way_that_wins_is_in_the_profile_and_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The verdict and the advice tell it, the whole model's figures are of it, and binding puts it in place."""
    made = tuned(monkeypatch, twice)
    (setup,) = made.setups
    assert setup.label == "forward"
    assert setup.way in ("compile", "compile dynamic")
    (step,) = made.steps
    assert step.high < 1
    assert f"The whole model gains most in another way of running it: forward: {setup.way}, " in made.verdict
    assert recommend(made).kind == "apply"
    assert setup.way in terminal_text(made, "p.json", width=80)
    assert load_profile(made.save(tmp_path / "p.json")) == made
    model = Long()
    kernelize_model(model, profile=made)
    assert "in train mode and was measured in eval mode: the original runs" in str(kernelize_report(model))
    model.eval()
    assert [b.candidate for b in kernelize_report(model).bound] == [setup.way]
    with torch.no_grad():
        torch.testing.assert_close(model(X), X * 2.0)
    restore_model(model)


@pytest.mark.parametrize(
    ("made", "kind", "told"),
    [
        (twice, "", ""),
        (lambda *args: (args[-1] * 2.1,), "wrong", "outputs"),
        (late, "slow", "of the original's time"),
    ],
    ids=["holds", "wrong", "slow"],
)
def test_a_way_is_verified(made: Callable[..., Any], kind: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its step is compared and timed again; on another model the profile is stale."""
    profile = tuned(monkeypatch, twice)
    torch._dynamo.reset()
    compiled_by(monkeypatch, lambda graph: made)
    found = verify_profile(profile, Long(), X, registry=Registry())
    (check,) = found.setups
    assert (check.kind, check.setup.way) == (kind, profile.setups[0].way)
    assert told in check.text
    assert found.holds is (kind == "")
    assert verification_data(found, "p.json", Recorded(model="m"))["setups"][0]["holds"] is (kind == "")
    other = verify_profile(profile, nn.Sequential(Long()), X, registry=Registry())
    assert not other.holds
    assert "Model" in other.stale[0]


def test_a_listener_s_own_error_is_no_way_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a way is verified: it comes out, and is not what the way raised."""
    profile = tuned(monkeypatch, twice)
    torch._dynamo.reset()

    def listen(event: Event) -> None:
        if isinstance(event, StepStarted):
            raise OSError("no room for my plot")

    with pytest.raises(OSError, match="no room for my plot"):
        verify_profile(profile, Long(), X, registry=Registry(), on_event=listen)


def test_who_keeps_an_answer_is_wrong_with_other_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inputs of a step are the same in each round: other values of the same sizes find it out."""
    kept: list[Tensor] = []

    def keeps(*args: Any) -> tuple[Tensor]:
        kept[:] = kept or [args[-1] * 2.0]
        return (kept[0],)

    made = tuned(monkeypatch, keeps)
    assert made.setups == ()
    refused = [step for step in made.compiled if step.cause == "wrong"]
    assert refused
    assert all("outputs" in step.problem for step in refused)


def test_who_ends_a_run_among_the_ways_keeps_all_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended among the kernels inside of ways: contests, the steps with winners, and the figures of ways are there."""
    timed: list[WaysTimed] = []

    def told(event: object) -> None:
        if isinstance(event, WaysTimed):
            timed.append(event)
        if len(timed) == 2:
            raise KeyboardInterrupt

    registry = Registry()
    register_external_layer(Slow, "Slow", registry=registry)
    register_layer_kernel("Slow", layer_impl=one, device="cpu", registry=registry)
    compiled_by(monkeypatch, lambda graph: lambda *args: (args[-1] * 4.0,))
    with pytest.raises(TuneInterrupted) as stopped:
        tune_model(Both(), X, registry=registry, settings=QUICK, ways=True, on_event=told)
    found = stopped.value.profile
    assert isinstance(found, Profile)
    assert (found.complete, found.setups, found.compiled) == (False, (), timed[0].compiled)
    assert [contest.status for contest in found.contests] == ["won"]
    assert found.steps[0].tuned_us
    assert found.steps[0].alone_us
    assert found.verdict.startswith(
        "Interrupted before all ways of running the whole model were timed. 1 of 1 contests"
    )


def test_who_ends_a_run_among_the_contests_keeps_the_figures_of_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come before; nothing is bound by them, for nobody held them against the rest."""

    def told(event: object) -> None:
        if isinstance(event, ContestStarted):
            raise KeyboardInterrupt

    with pytest.raises(TuneInterrupted) as stopped:
        tuned(monkeypatch, twice, on_event=told)
    found = stopped.value.profile
    assert isinstance(found, Profile)
    assert (found.complete, found.setups, found.contests) == (False, (), ())
    assert found.compiled[0].high < 1
    assert found.verdict.startswith("Interrupted after 0 of ")


def test_by_memory_no_way_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are there; what decides is another thing."""
    made = tuned(monkeypatch, twice, objective="memory")
    assert made.compiled
    assert made.setups == ()


def test_without_being_asked_for_no_way_competes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is not compiled at all; the line that measures it again does not ask either."""
    made = tuned(monkeypatch, twice, ways=False)
    assert (made.compiled, made.setups) == ((), ())
    assert "ways" not in again(made)
    assert ", ways=True)" in again(tuned(monkeypatch, twice))


def test_a_budget_that_is_over_tries_no_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is begun after its time."""
    made = tuned(monkeypatch, twice, budget_s=0.0)
    assert not any(step.compiled_us for step in made.compiled)
    assert made.setups == ()


def named(label: str, *, generates: bool = False) -> Any:
    """A step that is never run."""
    return SimpleNamespace(label=label, generates=generates)


def told_ratios(monkeypatch: pytest.MonkeyPatch, ratios: list[dict[str, float]]) -> Iterator[dict[str, float]]:
    """Each timing of steps gives the next of these, by label; what is left of them."""
    calls = iter(ratios)

    def timed(*args: Any, **kwargs: Any) -> tuple[StepResult, ...]:
        return tuple(
            StepResult(label=label, original_us=(1.0,), tuned_us=(ratio,), ratio=ratio, low=ratio, high=ratio)
            for label, ratio in next(calls).items()
        )

    monkeypatch.setattr(setups, "time_steps", timed)
    monkeypatch.setattr(setups, "plan_profile", lambda *args: Plan())
    return calls


def lost(label: str) -> str:
    """What is said of a way with which its own step takes 1.1 of its time."""
    return f"with it {label} took 1.100 of its time (1.100 to 1.100)"


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([{"a": 0.9}], ("a",)),
        ([{"a": 0.9, "b": 0.8}], ("a", "b")),
        ([{"a": 1.1, "b": 0.8}, {"a": 1.1}, {"a": 1.0, "b": 0.8}], ("b",)),
        ([{"a": 1.1, "b": 1.1}, {"a": 1.1, "b": 1.1}], ()),
        ([{"a": 0.9, "b": 0.8, "c": 1.2}, {"c": 1.2}, {"a": 1.0, "b": 0.8, "c": 1.2}, {"c": 1.2}], ()),
        ([{"a": 0.9, "b": 0.8, "c": 1.2}, {"c": 1.2}, {"a": 1.0, "b": 0.8, "c": 1.0}], ("b",)),
        ([{"a": 0.9, "c": 1.2}, {"c": 0.99}], ("a",)),
        ([{"a": 1.1, "b": 0.8}, {"a": 0.9}], ("a", "b")),
    ],
    ids=[
        "gains",
        "both gain",
        "one loses",
        "both lose",
        "another step loses",
        "by one of them",
        "another by chance",
        "its own by chance",
    ],
)
def test_bound_each_must_gain(
    ratios: list[dict[str, float]], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not is taken back, and says why; where a step that nobody won loses, one by one from the least gain."""
    profile = tuned(monkeypatch, twice, ways=False)
    calls = told_ratios(monkeypatch, ratios)
    won = tuple(Setup(label=label, way="compile", calls=(), model="") for label in ratios[0] if label != "c")
    figures = tuple(CompiledStep(label=setup.label, ratio=0.8, low=0.8, high=0.8) for setup in won)
    hall = Hall(model=Long(), clock=clock_for("cpu"), terms=Terms(mode=Mode.INFERENCE, device="cpu"), seconds=0.0)
    ways = Ways(compiled=figures, setups=won)
    steps = [named(label) for label in ratios[0]]
    found = with_setups(replace(profile, steps=()), ways, steps, hall, Registry(), lambda event: None)
    assert tuple(setup.label for setup in found.setups) == expected
    assert next(calls, None) is None
    assert {step.label for step in found.compiled if step.taken_back} == {s.label for s in won} - set(expected)
    for step in found.compiled:
        assert step.taken_back in ("", "with it c took 1.200 of its time (1.200 to 1.200)", lost(step.label))


def test_text_comes_first_where_all_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the contest, whose code is found so; the figures are in the order of the steps."""
    told: list[str] = []

    def timed(model: Any, steps: Any, *args: Any, **kwargs: Any) -> tuple[StepResult, ...]:
        told.extend(step.label for step in steps)
        return tuple(StepResult(label=step.label, ratio=0.5, low=0.5, high=0.5) for step in steps)

    monkeypatch.setattr(setups, "time_steps", timed)
    monkeypatch.setattr(setups, "plan_profile", lambda *args: Plan())
    ways = Ways(setups=(Setup(label="text", way="compile", calls=(), model=""),))
    hall = Hall(model=Long(), clock=clock_for("cpu"), terms=Terms(mode=Mode.INFERENCE, device="cpu"), seconds=0.0)
    steps = [named("a"), named("text", generates=True), named("b")]
    found = with_setups(empty(), ways, steps, hall, Registry(), lambda event: None)
    assert told == ["text", "a", "b"]
    assert [step.label for step in found.steps] == ["a", "text", "b"]


@pytest.mark.parametrize(
    ("ratios", "inside", "kernel", "ways"),
    [
        ([{"a": 0.6, "c": 1.1}, {"c": 1.1}, {"a": 0.6, "c": 1.0}], False, "original", ("a",)),
        ([{"a": 0.6, "c": 1.1}, {"c": 1.1}, {"a": 0.6, "c": 1.1}, {"c": 1.1}], False, "fast", ()),
        ([{"a": 0.6, "c": 1.1}, {"c": 1.1}], True, "fast", ()),
        ([{"a": 1.1, "c": 1.1}, {"a": 1.1, "c": 1.1}], False, "fast", ()),
        ([{"a": 0.6, "c": 1.0}], False, "fast", ("a",)),
    ],
    ids=["it was the kernel", "it was the way", "the way has the kernel inside", "the way gains nothing", "none"],
)
def test_where_a_step_becomes_slower_its_kernels_go_before_a_way(
    ratios: list[dict[str, float]],
    inside: bool,
    kernel: str,
    ways: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They gain least beside it; a kernel of a step in which nothing is slower stays, as do all if it is the way."""
    calls = told_ratios(monkeypatch, ratios)
    contests = tuple(contest(slot, original_us=100.0, ratio=0.8, step=step) for slot, step in (("S", "c"), ("T", "a")))
    profile = replace(empty(), contests=contests)
    won = Ways(
        compiled=(CompiledStep(label="a", way="compile", ratio=0.6, low=0.6, high=0.6),),
        setups=(Setup(label="a", way="compile", calls=(), model="", kernels=inside),),
    )
    hall = Hall(model=Long(), clock=clock_for("cpu"), terms=Terms(mode=Mode.INFERENCE, device="cpu"), seconds=0.0)
    steps = [named(label) for label in ratios[0]]
    found = with_setups(profile, won, steps, hall, Registry(), lambda event: None)
    mine, other = (each.selection for each in found.contests)
    assert mine.winner == kernel
    assert other.winner == "fast"
    assert (mine.status == "taken back") is (kernel == "original")
    assert kernel != "original" or "with it the whole step 'c' took 1.100 of its time (1.100 to 1.100)" in mine.reason
    assert tuple(setup.label for setup in found.setups) == ways
    assert next(calls, None) is None


def _takes(time_us: float) -> None:
    if not torch.compiler.is_compiling():
        clock.us += time_us


class Slow(nn.Module):
    """Forty operations that are one, and again; 1,000 µs where they are not compiled."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 8) to twice the same."""
        _takes(1000)
        for _ in range(40):
            x = x * 1.0
        return x * 2.0


def one(self: nn.Module, x: Tensor) -> Tensor:
    """The same as the slow layer, at once."""
    return x * 2.0


class Both(nn.Module):
    """A layer that a kernel replaces, and as much work beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Slow()

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 8) to four times the same."""
        x = self.layer(x)
        _takes(1000)
        for _ in range(40):
            x = x * 1.0
        return x * 2.0


def with_a_kernel(monkeypatch: pytest.MonkeyPatch, took_us: Callable[[int], float], registry: Registry) -> Profile:
    """A profile of a layer with a kernel of one operation; a graph takes as long as its number of operations says."""

    def made(graph: Any) -> Callable[..., Any]:
        operations = sum(node.op == "call_function" for node in graph.graph.nodes)

        def run(*args: Any) -> tuple[Tensor]:
            clock.us += took_us(operations)
            return (args[-1] * 4.0,)

        return run

    compiled_by(monkeypatch, made)
    monkeypatch.setattr(sys.modules[__name__], "clock", told_clock(monkeypatch))
    register_external_layer(Slow, "Slow", registry=registry)
    register_layer_kernel("Slow", layer_impl=one, device="cpu", registry=registry)
    return tune_model(Both(), X, registry=registry, settings=QUICK, ways=True)


@pytest.mark.parametrize(
    ("took_us", "inside"),
    [
        (lambda operations: 500.0 if operations > 60 else 50.0, [True]),
        (lambda operations: 500.0, [False]),
        (lambda operations: 300.0 if operations > 60 else 600.0, [False]),
        (lambda operations: 20_000.0, []),
    ],
    ids=["faster with it", "the same with it", "slower with it", "the kernel alone is faster"],
)
def test_kernels_and_ways_together(
    took_us: Callable[[int], float], inside: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel runs in the way that won where that is clearly faster; in any case for the calls that no way has."""
    registry = Registry()
    made = with_a_kernel(monkeypatch, took_us, registry)
    (won,) = (contest.selection.winner for contest in made.contests)
    assert won != "original"
    found = {step.way: step for step in made.compiled}
    assert found["kernels"].high < 1
    assert [setup.kernels for setup in made.setups] == inside
    model = kernelize_model(Both().eval(), profile=made, registry=registry)
    told = [binding.candidate for binding in kernelize_report(model).bound]
    assert told == ([made.setups[0].name] if made.setups else []) + [won]
    with torch.no_grad():
        torch.testing.assert_close(model(X), X * 4.0)
        torch.testing.assert_close(model(X[:3]), X[:3] * 4.0)
    restore_model(model)


@pytest.mark.parametrize(
    ("kernels", "again", "stays"),
    [(0.5, False, False), (0.5, True, True), (0.95, False, True)],
    ids=["kernels alone are faster", "they were raced", "they are slower"],
)
def test_a_way_slower_than_the_kernels_alone_does_not_run(kernels: float, again: bool, stays: bool) -> None:
    """Where the budget left no time to race both, each one's figures beside the original decide."""
    way = CompiledStep(label="f", way="compile", ratio=0.9, low=0.88, high=0.92)
    rows = (way, replace(way, way="kernels", ratio=kernels, low=kernels - 0.01, high=kernels + 0.01))
    setup = Setup(label="f", way="compile", calls=(), model="")
    found = without_slower(Ways(compiled=rows, setups=(setup,)), () if again else ("f",))
    assert bool(found.setups) is stays


@pytest.mark.parametrize(("without", "stays"), [("raised", True), ("not timed", True), ("wrong", False)])
def test_a_way_that_fails_beside_the_kernels_stays(without: Any, stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a reason of the moment, as it won before; one that is wrong there does not."""
    terms = Terms(mode=Mode.INFERENCE, device="cpu")
    hall = Hall(model=Long(), clock=clock_for("cpu"), terms=terms, seconds=0.0)
    step: Any = SimpleNamespace(label="f")
    contest = WayContest(hall, step, None)

    def timed(names: Any) -> dict[str, tuple[float, ...]]:
        contest.found += [
            CompiledStep(label="f", way="kernels", ratio=0.5, low=0.4, high=0.6),
            CompiledStep(label="f", way="compile", problem="it failed", cause=without),
        ]
        return {"kernels": (1.0,)}

    monkeypatch.setattr(contest, "_timed", timed)
    assert contest.with_kernels(Won(way="compile"), Plan(), 1.0) == (Won(way="compile") if stays else None)


def test_from_a_neighbour_its_way_alone_competes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What won there is compiled, checked and timed here; in a step that its original won nothing is compiled."""
    graphs = compiled_by(monkeypatch, lambda graph: twice)
    there = tuned(monkeypatch, twice)
    (setup,) = there.setups
    graphs.clear()
    made = tuned(monkeypatch, twice, neighbour=Neighbour(profile=there, whose="x"))
    assert {way.way for way in made.compiled} == {setup.way}
    assert [(each.label, each.way) for each in made.setups] == [(setup.label, setup.way)]
    assert made.run is not None
    assert made.run.started_from.endswith("; 1 of its 1 steps run in its way")
    kept = replace(there, setups=())
    made = tuned(monkeypatch, twice, neighbour=Neighbour(profile=kept, whose="x"))
    assert (made.compiled, made.setups) == ((), ())


@pytest.mark.parametrize(("here", "confirmed"), [(twice, 1), (late, 0)], ids=["faster here", "slower here"])
def test_a_way_from_elsewhere_is_tried_before_it_is_bound(
    here: Callable[..., Any], confirmed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kernelize_model(example_inputs=) races the way that won on another machine, and binds it where it wins here."""
    monkeypatch.setattr(tried, "Isolated", lambda **options: nullcontext())
    made = tuned(monkeypatch, twice)
    there = replace(made, environment=replace(made.environment, torch="2.0.0"))
    compiled_by(monkeypatch, lambda graph: here)
    with pytest.warns(UserWarning, match=rf"torch: 2.0.0 then.*; {confirmed} of its 1 steps run in its way"):
        model = kernelize_model(Long().eval(), profile=there, registry=Registry(), example_inputs=X)
    report = kernelize_report(model)
    assert [b.candidate for b in report.bound] == [setup.way for setup in made.setups][:confirmed]
    lost = [kept.slot for kept in report.kept if kept.slot.startswith("Model ")]
    assert lost == [f"Model forward ({made.setups[0].way})"][confirmed:]
    with torch.no_grad():
        torch.testing.assert_close(model(X), X * 2.0)
    restore_model(model)


@pytest.mark.parametrize(
    ("low", "way_ratio", "label", "expected"),
    [
        (0.95, 0.5, "forward", True),
        (0.985, 0.5, "forward", True),
        (0.995, 0.5, "forward", False),
        (0.985, 0.9, "forward", False),
        (0.985, 0.5, "generate", True),
        (1.01, 0.5, "generate", False),
    ],
)
def test_kernels_that_save_too_little_are_not_tried_inside_of_a_way(
    low: float, way_ratio: float, label: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that they take away of the original must be 2% of what the way takes; generated text may gain like a step."""
    step = StepResult(label="forward", original_us=(1.0,), tuned_us=(1.0,), ratio=low, low=low, high=1.2)
    profile: Any = SimpleNamespace(steps=(StepResult(label="other"), step))
    setup = Setup(label=label, way="compile", calls=(), model="")
    way = CompiledStep(label=label, ratio=way_ratio, low=way_ratio, high=way_ratio)
    assert may_gain(profile, Ways(compiled=(way,), setups=(setup,))) is expected
    assert not may_gain(profile, Ways(compiled=(way,)))


@pytest.mark.parametrize(("takes_us", "tried"), [(0.0, ["compile"]), (20_000.0, ["compile", "compile dynamic"])])
def test_code_for_all_sizes_stands_in_for_code_for_one(
    takes_us: float, tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never faster, and compiling takes long: it is tried where the model compiled as it is gains nothing."""

    def run(*args: Any) -> tuple[Tensor]:
        spin(takes_us)
        return twice(*args)

    assert [step.way for step in tuned(monkeypatch, run).compiled] == tried


def test_the_winner_is_the_fastest_of_those_that_are_clearly_faster() -> None:
    """Not one whose interval reaches the original's time, nor one that is refused."""
    ways = [
        CompiledStep(label="f", way="a", ratio=0.7, low=0.5, high=1.1),
        CompiledStep(label="f", way="b", ratio=0.9, low=0.8, high=0.95),
        CompiledStep(label="f", way="c", ratio=0.5, low=0.4, high=0.6, problem="it is off", cause="wrong"),
    ]
    assert winner_of(ways) == "b"
    assert winner_of(ways[:1]) is None


def test_a_language_model_is_held_out_with_masks_of_all_lengths() -> None:
    """A prompt comes with a mask from nearly every tokenizer; a trainer gives labels and the count of items as well."""
    model, ids = tiny("llama"), torch.randint(3, 60, (1, 8))
    prefill, generate = tried_steps(model, {"input_ids": ids}, Mode.INFERENCE, "cpu")
    lengths = ["1x2", "2x8", "1x2", "1x12"]
    assert [step.label for step in prefill.held_out] == [f"prefill {length}" for length in lengths]
    assert [step.label for step in generate.held_out] == [f"generate {length}+32" for length in lengths]
    with torch.no_grad():
        given = [calls_of(model, step)[0].workload.kwargs for step in prefill.held_out]
    assert ["attention_mask" in dict(kwargs) for kwargs in given] == [False] * 2 + [True] * 2
    (train,) = tried_steps(model, {"input_ids": ids}, Mode.TRAIN, "cpu")
    kwargs = dict(calls_of(model, train.held_out[-1])[0].workload.kwargs)
    assert {"attention_mask", "labels", "num_items_in_batch"} <= kwargs.keys()


def test_steps_of_other_sizes() -> None:
    """Shorter, longer, a larger batch; of other values one of the same size."""
    (tried,) = tried_steps(nn.Embedding(9, 4), torch.ones(2, 8, dtype=torch.long), Mode.INFERENCE, "cpu")
    assert tried.step.label == "forward 2x8"
    assert tried.again is not None
    assert tried.again.label == "forward 2x8"
    assert [step.label for step in tried.held_out] == ["forward 2x2", "forward 4x8", "forward 2x12"]
    assert [step.label for step in tried.between] == ["forward 2x5"]
    assert len(tried.all) == 6
