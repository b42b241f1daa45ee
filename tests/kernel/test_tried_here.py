"""A profile from another machine is tried here before anything of it is bound: with a clock that is told the times."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub.server import LocalHub
from tests.kernel.toys import Model, Norm, inputs, layer_contest, profile, registry
from tests.told import Told, told_clock
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import BindError, StaleProfileError
from twinkle_tune.kernel import Registry, kernelize_model, kernelize_report, kernelized, restore_model
from twinkle_tune.mode import Mode
from twinkle_tune.profile.hub import parse_place, push
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import ModelFacts, Profile
from twinkle_tune.profile.store import Store
from twinkle_tune.tune import tried, tune
from twinkle_tune.workload import target_of

REPO = "friends/profiles"
NARROW = ("layers.0.narrow",)
WIDE = ("layers.0.wide", "layers.1.wide")
X = inputs(4)
Forward = Callable[..., Any]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Contests in this process; the norms take 500 µs, and what the kernels take is theirs to say."""
    monkeypatch.setattr(tried, "Isolated", lambda **options: nullcontext())
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    made, plain = told_clock(monkeypatch), Norm.forward

    def slow(self: Norm, x: torch.Tensor) -> torch.Tensor:
        made.us += 500.0
        return plain(self, x)

    monkeypatch.setattr(Norm, "forward", slow)
    return made


def kernel(clock: Told, us: float, plus: float = 0.0, backward: float = 1.0) -> Forward:
    """A kernel of the norm that takes so long, adds something, and scales the gradient of its weight."""

    def quick(self: Norm, x: torch.Tensor) -> torch.Tensor:
        clock.us += us
        weight = self.weight * backward + self.weight.detach() * (1 - backward)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight + plus

    quick.__qualname__ = "quick"
    return quick


def elsewhere(known: Registry, *paths: tuple[str, ...], mode: str = "inference", rows: int = 4) -> Profile:
    """A profile of a machine with another torch, in which ``quick`` won the norms at some paths."""
    model = Model().train(mode == "train")
    facts = ModelFacts(
        name="toy", target=target_of(Model), parameters=sum(p.numel() for p in model.parameters()), dtype="float32"
    )
    contests = [
        layer_contest(model, each, rows, "impl:quick", known, grad=mode == "train") for each in paths or (WIDE,)
    ]
    there = replace(current_environment("cpu"), torch="2.12.0")
    return profile(contests, model=facts, environment=there, mode=Mode(mode))


def pushed(found: Profile, folder: Path) -> None:
    """Put a profile into the collection."""
    file = found.save(folder / "profile.json")
    push(file, load_profile(file), parse_place(REPO))


def test_what_is_right_and_faster_here_is_bound(local_hub: LocalHub, tmp_path: Path, clock: Told) -> None:
    """The nearest profile's winners are bound after they were confirmed; one warning says what differs, and how many
    were."""
    known = registry(kernel(clock, 10.0))
    pushed(elsewhere(known, NARROW, WIDE), tmp_path)
    model = Model()
    with pytest.warns(UserWarning, match=r"made elsewhere \(torch: 2.12.0 then, .* now\): 2 of its 2 winners") as told:
        kernelize_model(model, profile=f"hub:{REPO}", registry=known, example_inputs=X)
    assert len(told) == 1
    assert str(told[0].message).endswith("tried here, 2 confirmed")
    report = kernelize_report(model)
    assert {binding.path for binding in report.bound} == {*NARROW, *WIDE}
    assert "published by friends." in str(report)
    restore_model(model)
    assert not kernelize_report(model).bound


CASES: dict[str, tuple[dict[str, float], str, int, str]] = {
    "wrong": (
        {"us": 10.0, "plus": 1.0},
        "inference",
        4,
        r"Norm float32\[4,8\] \(impl:quick\): parity: .*whole tensor is 1",
    ),
    "slower": ({"us": 900.0}, "inference", 4, r"\(impl:quick\): no candidate was at least 2% faster"),
    "wrong backward": ({"us": 10.0, "backward": 2.0}, "train", 4, r"\(impl:quick\): parity: .*weight"),
    "another size": ({"us": 10.0}, "inference", 3, r"\(impl:quick\): the model makes no such call with these inputs"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_hold_here_keeps_the_original(
    local_hub: LocalHub, tmp_path: Path, clock: Told, case: str
) -> None:
    """A winner that is wrong here, forward or backward, slower, or not called, is not bound; the report says why, and
    without fallback it is an error."""
    takes, mode, rows, why = CASES[case]
    known = registry(kernel(clock, **takes))
    pushed(elsewhere(known, NARROW, mode=mode, rows=rows), tmp_path)
    model = Model()
    asked: dict[str, Any] = {"profile": f"hub:{REPO}", "mode": mode, "registry": known, "example_inputs": X}
    with pytest.warns(UserWarning, match=r"of its 1 winners tried here, 0 confirmed"):
        kernelize_model(model, **asked)
    assert not kernelize_report(model).bound
    assert re.search(why, str(kernelize_report(model)))
    with pytest.raises(StaleProfileError, match=why):
        kernelize_model(model, use_fallback=False, **asked)


def test_a_right_backward_is_bound_for_training(local_hub: LocalHub, tmp_path: Path, clock: Told) -> None:
    """In training the winner is held to the original's gradients as well, and bound where they are right."""
    known = registry(kernel(clock, 10.0))
    pushed(elsewhere(known, NARROW, mode="train"), tmp_path)
    with pytest.warns(UserWarning, match="1 of its 1 winners tried here, 1 confirmed"):
        model = kernelize_model(Model(), "train", profile=f"hub:{REPO}", registry=known, example_inputs=X)
    assert [binding.path for binding in kernelize_report(model).bound] == [*NARROW]


def test_one_race_tells(clock: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a winner that competes alone no second race is held: nobody was chosen among several."""

    def confirmed(*arguments: Any) -> Any:
        raise AssertionError("a second race")

    monkeypatch.setattr("twinkle_tune.tune.run.confirmed", confirmed)
    known = registry(kernel(clock, 10.0))
    with pytest.warns(UserWarning, match="2 of its 2 winners tried here, 2 confirmed$"):
        kernelize_model(Model(), profile=elsewhere(known, NARROW, WIDE), registry=known, example_inputs=X)


def test_few_micro_batches_are_run(clock: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training profile that names any number of micro-batches a step costs no more than some of them."""
    asked: list[Any] = []

    def tune_model(*arguments: Any, **options: Any) -> Profile:
        asked.append(options["accumulate"])
        return tune.tune_model(*arguments, **options)

    monkeypatch.setattr(tried, "tune_model", tune_model)
    known = registry(kernel(clock, 10.0))
    there = replace(elsewhere(known, NARROW, mode="train"), accumulate=10**9)
    with pytest.warns(UserWarning, match="1 of its 1 winners tried here, 1 confirmed"):
        kernelize_model(Model(), "train", profile=there, registry=known, example_inputs=X)
    assert asked == [64]


def test_inputs_without_a_profile_are_an_error() -> None:
    """Inputs are for a profile's winners: without one they would be for nothing."""
    with pytest.raises(BindError, match="example_inputs: got them without a profile, expected both"):
        kernelize_model(Model(), example_inputs=X)


def test_nobody_else_competes(local_hub: LocalHub, tmp_path: Path, clock: Told) -> None:
    """What the other machine did not decide has no contest here, whoever is registered for it."""
    known = registry(kernel(clock, 10.0))
    pushed(elsewhere(known, NARROW), tmp_path)
    with pytest.warns(UserWarning, match="1 confirmed"):
        model = kernelize_model(Model(), profile=f"hub:{REPO}", registry=known, example_inputs=X)
    assert {binding.path for binding in kernelize_report(model).bound} == set(NARROW)


def test_the_second_call_holds_no_contest(
    local_hub: LocalHub, tmp_path: Path, clock: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found out here is kept: bound anew, on a model that has kernels bound, nothing is raced again."""
    known = registry(kernel(clock, 10.0))
    pushed(elsewhere(known), tmp_path)
    model = Model()
    asked: dict[str, Any] = {"profile": f"hub:{REPO}", "registry": known, "example_inputs": X}
    with pytest.warns(UserWarning, match="1 confirmed"):
        kernelize_model(model, **asked)

    def run(self: object, tasks: Iterator[object], tell: object) -> Iterator[object]:
        assert next(tasks, None) is None, "a contest is held"
        return iter(())

    monkeypatch.setattr("twinkle_tune.tune.in_process.InProcess.hold", run)
    with pytest.warns(UserWarning, match="1 confirmed"):
        kernelize_model(model, **asked)
    assert len(kernelize_report(model).bound) == 2


FAILS: dict[str, tuple[object, str]] = {
    "inputs that do not fit": (torch.randn(4, 3), r"its winners could not be tried here: .*"),
    "no inputs at all": ([], r"its winners could not be tried here: .*"),
}


@pytest.mark.parametrize("case", FAILS)
def test_what_cannot_be_tried_keeps_the_originals(local_hub: LocalHub, tmp_path: Path, clock: Told, case: str) -> None:
    """Whatever goes wrong while winners are tried is one warning and no error; without fallback it is one."""
    example, why = FAILS[case]
    known = registry(kernel(clock, 10.0))
    pushed(elsewhere(known), tmp_path)
    model = Model()
    with pytest.warns(UserWarning, match=rf"made elsewhere .*{why}") as told:
        kernelize_model(model, profile=f"hub:{REPO}", registry=known, example_inputs=example)
    assert len(told) == 1
    assert not kernelize_report(model).bound
    with pytest.raises(StaleProfileError, match=why):
        kernelize_model(model, None, None, False, f"hub:{REPO}", registry=known, example_inputs=example)


class Stopping(Model):
    """A model that is interrupted when it is run."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Never returns."""
        raise KeyboardInterrupt


@pytest.mark.parametrize("case", ["without fallback", "Ctrl-C", "a warning that is an error"])
def test_on_an_error_the_model_is_as_it_was(clock: Told, case: str) -> None:
    """What was bound before is bound again, and told as bound, where the call raises."""
    known = registry(kernel(clock, 10.0))
    there = elsewhere(known)
    model: Any = kernelize_model(
        Model(), profile=replace(there, environment=current_environment("cpu")), registry=known
    )
    before = kernelize_report(model)
    assert len(before.bound) == 2
    forwards = [module.__dict__.get("forward") for module in model.modules()]
    if case == "Ctrl-C":
        model.__class__ = Stopping
    x = torch.randn(4, 3) if case == "without fallback" else X
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((StaleProfileError, KeyboardInterrupt, UserWarning)):
            kernelize_model(
                model, profile=there, registry=known, example_inputs=x, use_fallback=case != "without fallback"
            )
    assert kernelize_report(model) == before
    for module, forward in zip(model.modules(), forwards, strict=True):
        # Not the very function: with torch 2.11 each binding has one of its own.
        assert getattr(module.__dict__.get("forward"), "__code__", None) is getattr(forward, "__code__", None)


def test_the_store_is_closed_and_a_wrong_one_is_told(
    clock: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of past outcomes is let go of; one that cannot be used is told in the one warning, and all is tried."""
    closed, close = [], Store.close

    def noted(store: Store) -> None:
        closed.append(store)
        close(store)

    monkeypatch.setattr(Store, "close", noted)
    known = registry(kernel(clock, 10.0))
    with pytest.warns(UserWarning, match="2 of its 2 winners tried here, 2 confirmed$"):
        kernelize_model(Model(), profile=elsewhere(known, NARROW, WIDE), registry=known, example_inputs=X)
    assert closed
    wrong = tmp_path / "wrong.sqlite"
    wrong.write_text("no store")
    monkeypatch.setenv("TWINKLE_TUNE_STORE", str(wrong))
    with pytest.warns(UserWarning, match=r"1 confirmed; no store of past outcomes: .*wrong.sqlite") as told:
        model = kernelize_model(Model(), profile=elsewhere(known), registry=known, example_inputs=X)
    assert len(told) == 1
    assert len(kernelize_report(model).bound) == 2


def test_another_model_s_profile_is_told_as_that(clock: Told) -> None:
    """Where nothing of it matches, the profile is of another model, and no other inputs would help."""
    known = registry(kernel(clock, 10.0))
    there = replace(elsewhere(known, rows=3), model=replace(elsewhere(known).model, name="far", target="far.away:Far"))
    with pytest.warns(
        UserWarning, match=r"this profile is of Far \(far\), your model is Model: nothing matched"
    ) as told:
        kernelize_model(Model(), profile=there, registry=known, example_inputs=X)
    assert len(told) == 1
    assert "give inputs" not in str(told[0].message)


def test_no_time_keeps_the_originals(
    local_hub: LocalHub, tmp_path: Path, clock: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A winner for which the time is not enough keeps its original, and the report says so."""
    monkeypatch.setattr(tried, "BUDGET", 0)
    known = registry(kernel(clock, 10.0))
    pushed(elsewhere(known), tmp_path)
    with pytest.warns(UserWarning, match="0 confirmed"):
        model = kernelize_model(Model(), profile=f"hub:{REPO}", registry=known, example_inputs=X)
    assert not kernelize_report(model).bound
    assert re.search(r"\(impl:quick\): not tried: .*budget", str(kernelize_report(model)))


def test_a_file_from_elsewhere_is_tried_as_well(tmp_path: Path, clock: Told) -> None:
    """A profile's file that was made on another machine: with example inputs it is tried, without it is stale."""
    known = registry(kernel(clock, 10.0))
    file = elsewhere(known).save(tmp_path / "there.json")
    with (
        pytest.warns(UserWarning, match=r"the profile, made elsewhere \(torch: .*1 confirmed"),
        kernelized(Model(), profile=file, registry=known, example_inputs=X) as model,
    ):
        assert len(kernelize_report(model).bound) == 2
    with pytest.raises(StaleProfileError, match="made in another environment"):
        kernelize_model(model, profile=file, registry=known, use_fallback=False)


def test_on_a_machine_like_its_own_nothing_is_tried(
    tmp_path: Path, clock: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exact match is bound without a contest and without a word, with example inputs as well."""
    monkeypatch.setattr("twinkle_tune.kernel.shared.try_here", None)
    known = registry(kernel(clock, 10.0))
    here = replace(elsewhere(known), environment=current_environment("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = kernelize_model(Model(), profile=here, registry=known, example_inputs=X)
    assert len(kernelize_report(model).bound) == 2


def test_where_the_original_won_nothing_is_tried(clock: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile without winners is not tried: the model is not run, nothing is bound, and that is said."""
    monkeypatch.setattr("twinkle_tune.kernel.shared.try_here", None)
    known = registry(kernel(clock, 10.0))
    there = replace(elsewhere(known), contests=())
    with pytest.warns(UserWarning, match="its originals won everywhere; nothing is tried or bound"):
        model = kernelize_model(Model(), profile=there, registry=known, example_inputs=X)
    assert not kernelize_report(model).bound


def test_not_by_the_ranks_of_a_group(clock: Told) -> None:
    """Each rank would race for itself: it is refused at once, with what to do."""
    with pytest.raises(BindError, match=r"example_inputs, group: got both, expected one: winners are tried in one"):
        kernelize_model(Model(), group=object(), example_inputs=X)
