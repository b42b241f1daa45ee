"""One line in a script: found once, applied from then on, and never in the way."""

from __future__ import annotations

import copy
import gc
import pickle
import time
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.catalog.catalog_families import tiny
from tests.report import fabricate
from tests.strategy.planted import compiled_by
from tests.tune.test_setups import Long, twice
from twinkle_tune import kernelize_report, optimize_model, restore_model
from twinkle_tune.contest import model as model_stage
from twinkle_tune.profile.run import RunFacts
from twinkle_tune.tune import kept, optimize

X = torch.randn(4, 8)


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache folder of the test's own, few rounds, contests in this process, nothing compiled before and after."""
    monkeypatch.setenv("TWINKLE_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    monkeypatch.setattr(optimize, "Isolated", lambda **options: nullcontext())
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def bound(model: nn.Module) -> list[str]:
    """Who runs in the model."""
    model.eval()
    return [binding.candidate for binding in kernelize_report(model).bound]


def test_the_first_script_tunes_and_the_second_applies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The profile is kept by the model and the machine, and comes into place without a contest."""
    compiled_by(monkeypatch, lambda graph: twice)
    first = Long()
    assert optimize_model(first, X, candidates="original") is first
    (way,) = bound(first)
    assert len(list((tmp_path / "cache" / "models").glob("*.json"))) == 1
    monkeypatch.setattr(optimize, "tune_model", None)
    second, began_s = Long(), time.process_time()
    optimize_model(second, X)
    assert time.process_time() - began_s < 2
    assert bound(second) == [way]
    restore_model(second)
    other = nn.Sequential(Long())
    with pytest.warns(UserWarning, match="optimize_model: .*; the original runs"):
        optimize_model(other, X)
    assert bound(other) == []


@pytest.mark.parametrize(
    ("complete", "had_s", "now_s", "more"),
    [(False, 1.0, 300.0, True), (False, 1.0, None, True), (False, 300.0, 300.0, False), (True, 1.0, 300.0, False)],
)
def test_a_profile_that_was_not_finished_is_made_again_with_more_time(
    complete: bool, had_s: float, now_s: float | None, more: bool
) -> None:
    """Else a script whose first run had a second for it would never be faster; with the same time it stays."""
    made = fabricate.profile(fabricate.won(), complete=complete, run=RunFacts(took_s=1.0, budget_s=had_s))
    assert kept.may_find_more(made, now_s) is more


def test_without_inputs_the_first_call_is_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered by the original; the calls after it run what won."""
    graphs = compiled_by(monkeypatch, lambda graph: twice)
    model = optimize_model(Long().eval(), candidates="original")
    assert bound(model) == []
    with torch.no_grad():
        torch.testing.assert_close(model(X), X * 2.0)
        assert bound(model)
        before = len(graphs)
        torch.testing.assert_close(model(X), X * 2.0)
    assert len(graphs) == before + 1
    assert not model._forward_pre_hooks


def test_under_inference_mode_and_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kernl's users call a model: what is found in the first call is compiled at the next."""
    graphs = compiled_by(monkeypatch, lambda graph: twice)
    model = optimize_model(Long().eval(), candidates="original")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(X), X * 2.0)
        assert bound(model)
        before = len(graphs)
        torch.testing.assert_close(model(X), X * 2.0)
    assert len(graphs) == before + 1


def test_what_waits_for_the_first_call_is_not_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is pickled, copied and compiled as before, is freed at once, and asked twice it waits once."""
    compiled_by(monkeypatch)
    monkeypatch.setattr(optimize, "tune_model", None)
    model = optimize_model(optimize_model(nn.Linear(8, 8).eval()))
    assert len(model._forward_pre_hooks) == 1
    plain = model.forward(X)
    assert torch.equal(pickle.loads(pickle.dumps(model))(X), plain)
    assert torch.equal(copy.deepcopy(model)(X), plain)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(X), plain)
    assert len(model._forward_pre_hooks) == 1
    torch._dynamo.reset()
    other = optimize_model(nn.Linear(8, 8))
    gone = weakref.ref(other)
    gc.collect()
    gc.disable()
    try:
        del other
        assert gone() is None
    finally:
        gc.enable()


def test_generation_is_an_example_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt of the first ``generate`` is taken, without the cache that it begins; what is said stays the same."""
    seen: list[Any] = []

    def noted(model: nn.Module, inputs: Any, **options: Any) -> None:
        seen.append(inputs)
        raise RuntimeError("planted")

    monkeypatch.setattr(optimize, "tune_model", noted)
    model: Any = tiny("llama")
    ids = torch.randint(3, 60, (1, 8))
    said = model.generate(ids, max_new_tokens=4, do_sample=False)
    with pytest.warns(UserWarning, match="planted; the original runs"):
        assert torch.equal(optimize_model(model).generate(ids, max_new_tokens=4, do_sample=False), said)
    (inputs,) = seen
    assert inputs.keys() <= {"input_ids", "attention_mask"}
    assert torch.equal(inputs["input_ids"], ids)


@pytest.mark.parametrize("place", ["tune_model", "load_profile", "kernelize_model", "digest_of_model", "usable_folder"])
def test_whatever_fails_the_original_answers(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A planted failure at each stage is a warning, and the model is as it was."""

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("planted")

    compiled_by(monkeypatch, lambda graph: twice)
    if place == "load_profile":
        optimize_model(Long(), X, candidates="original")
    monkeypatch.setattr(optimize if hasattr(optimize, place) else kept, place, fails)
    model = Long()
    with pytest.warns(UserWarning, match="optimize_model: RuntimeError: planted; the original runs"):
        optimize_model(model, X, candidates="original")
    assert bound(model) == []
    assert torch.equal(model(X), X * 2.0)
    later = Long()
    with pytest.warns(UserWarning, match="planted; the original runs"):
        answer: Tensor = optimize_model(later, candidates="original")(X)
    assert torch.equal(answer, X * 2.0)


def test_a_profile_that_cannot_be_kept_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs the next script its time, not this one."""

    def fails(*args: Any, **kwargs: Any) -> None:
        raise OSError("the disk is full")

    compiled_by(monkeypatch, lambda graph: twice)
    monkeypatch.setattr(kept, "make_private", fails)
    with pytest.warns(UserWarning, match="the profile is not kept .*the disk is full"):
        model = optimize_model(Long(), X, candidates="original")
    assert bound(model)


def test_one_of_several_ranks_does_not_tune_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning says what to call instead, and the original runs."""
    monkeypatch.setattr("twinkle_tune.tune.optimize.processes_of_the_job", lambda: 4)
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.warns(UserWarning, match=r"each of 4 processes would find its own; call tune_model .* with group="):
        optimize_model(model, torch.ones(1, 4))
    assert not kernelize_report(model).bound
