"""Ways of running the whole model that win are in the profile, bound and told; who is wrong or gains nothing is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.catalog.catalog_families import tiny
from tests.report import fabricate
from tests.strategy.planted import compiled_by
from tests.tune.toy import QUICK
from twinkle_tune import kernelize_model, kernelize_report, load_profile, restore_model, tune_model
from twinkle_tune.capture.held_out import tried_steps
from twinkle_tune.cli.recorded import Recorded
from twinkle_tune.cli.verify import verification_data
from twinkle_tune.contest import model as model_stage
from twinkle_tune.kernel import Registry
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.mode import Mode
from twinkle_tune.objective import Objective
from twinkle_tune.profile.schema import Profile, StepResult
from twinkle_tune.profile.setup import CompiledStep, Setup
from twinkle_tune.report.recommend import recommend
from twinkle_tune.report.terminal import terminal_text
from twinkle_tune.tune import setups
from twinkle_tune.tune.gain import promised
from twinkle_tune.tune.setups import ways_gain_more, with_setups
from twinkle_tune.tune.verify import verify_profile
from twinkle_tune.tune.ways import Ways, calls_of, winner_of

X = torch.randn(4, 8)


class Long(nn.Module):
    """Three hundred operations that are one."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 8) to twice the same."""
        for _ in range(300):
            x = x * 1.0
        return x * 2.0


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few rounds, and nothing compiled before and after."""
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


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


def test_by_memory_no_way_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are there; what decides is another thing."""
    made = tuned(monkeypatch, twice, objective="memory")
    assert made.compiled
    assert made.setups == ()


def test_without_being_asked_for_no_way_competes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is not compiled at all."""
    made = tuned(monkeypatch, twice, ways=False)
    assert (made.compiled, made.setups) == ((), ())


def test_a_budget_that_is_over_tries_no_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is begun after its time."""
    made = tuned(monkeypatch, twice, budget_s=0.0)
    assert not any(step.compiled_us for step in made.compiled)
    assert made.setups == ()


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([{"a": 0.9}], ("a",)),
        ([{"a": 0.9, "b": 0.8}], ("a", "b")),
        ([{"a": 1.1, "b": 0.8}, {"a": 1.1}, {"b": 0.8}], ("b",)),
        ([{"a": 1.1, "b": 1.1}, {"a": 1.1, "b": 1.1}], ()),
        ([{"a": 0.9, "b": 0.9, "c": 1.2}, {"c": 1.2}], ()),
        ([{"a": 0.9, "c": 1.2}, {"c": 0.99}], ("a",)),
    ],
    ids=["gains", "both gain", "one loses", "both lose", "another step loses", "by chance"],
)
def test_bound_each_must_gain(
    ratios: list[dict[str, float]], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not is left out and the others are timed again; where a step that nobody won loses, all are."""
    profile = tuned(monkeypatch, twice, ways=False)
    calls = iter(ratios)

    def timed(*args: Any, **kwargs: Any) -> tuple[StepResult, ...]:
        return tuple(
            StepResult(label=label, original_us=(1.0,), tuned_us=(ratio,), ratio=ratio, low=ratio, high=ratio)
            for label, ratio in next(calls).items()
        )

    monkeypatch.setattr(setups, "time_steps", timed)
    monkeypatch.setattr(setups, "plan_profile", lambda *args: type("Plan", (), {"stale": ()}))
    won = tuple(Setup(label=label, way="compile", calls=(), model="") for label in ratios[0] if label != "c")
    steps = tuple(CompiledStep(label=setup.label, ratio=0.8, low=0.8, high=0.8) for setup in won)
    found = with_setups(
        replace(profile, steps=()), Ways(compiled=steps, setups=won), Long(), (), clock_for("cpu"), Registry(),
        lambda event: None, seed=0, seconds=0.0,
    )  # fmt: skip
    assert tuple(setup.label for setup in found.setups) == expected
    assert next(calls, None) is None


@pytest.mark.parametrize(("kernels", "runs"), [(0.5, False), (0.9, True)])
def test_of_ways_and_kernels_those_run_that_gain_more(
    kernels: float, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the whole model's time with the kernels, where that is known; by memory no way runs."""
    step = StepResult(label="forward", original_us=(1.0,), tuned_us=(kernels,), ratio=kernels)
    profile = replace(tuned(monkeypatch, twice, ways=False), steps=(step,))
    ways = Ways(
        compiled=(CompiledStep(label="forward", ratio=0.8, low=0.8, high=0.8),),
        setups=(Setup(label="forward", way="compile", calls=(), model=""),),
    )
    assert ways_gain_more(profile, ways) is runs
    assert not ways_gain_more(profile, Ways())
    assert not ways_gain_more(replace(profile, objective=Objective.MEMORY), ways)


def test_what_kernels_promise_counts_before_they_are_timed_in_the_model() -> None:
    """Their shares times what they save: 8% of a step's time leave more than a way with 0.95 does."""
    profile = fabricate.normal()
    label = profile.steps[0].label
    before = replace(profile, steps=(StepResult(label=label),))
    saved = promised(before, label)
    assert saved > 0
    setup = Setup(label=label, way="compile", calls=(), model="")
    for ratio, more in ((1 - saved / 2, False), (1 - saved * 1.1, True)):
        step = CompiledStep(label=label, ratio=ratio, low=ratio, high=ratio)
        assert ways_gain_more(before, Ways(compiled=(step,), setups=(setup,))) is more


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
    assert len(tried.all) == 5
