"""The main job on layers whose speed is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.tune.toy import QUICK, Norm, Two, doubled, norm, norm_taking, spin
from twinkle_tune import kernelize_model, kernelize_report, load_profile, restore_model, tune_model
from twinkle_tune.contest.events import TrialRefused
from twinkle_tune.errors import CaptureError, DeviceError, ModeError, RegistrationError, TuneError, TuneInterrupted
from twinkle_tune.kernel import Registry, register_external_layer, register_function_kernel, register_layer_kernel
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.tune.events import ContestFinished, Event

HERE = "tests.tune.toy"


def registry_of(*impls: Callable[..., torch.Tensor], mode: str | None = None) -> Registry:
    """A registry in which ``Norm`` has these contestants, in this order."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    for impl in impls:
        register_layer_kernel("Norm", layer_impl=impl, device="cpu", mode=mode, registry=registry)
    return registry


def tuned(model: nn.Module, inputs: object, registry: Registry, **options: object) -> Profile:
    """A profile with short races, of registered contestants alone."""
    return tune_model(model, inputs, registry=registry, settings=QUICK, candidates=["impl"], **options)  # type: ignore[arg-type]


def of(profile: Profile, path: str) -> list[Contest]:
    """The contests of one instance, by rising row count."""
    return sorted((c for c in profile.contests if path in c.instances), key=lambda c: c.workload.rows)


def test_the_fast_and_right_candidate_wins() -> None:
    """A candidate that is right and clearly faster wins, with its evidence."""

    def fast(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return norm(self, x)

    profile = tuned(Two(), torch.randn(8, 16), registry_of(fast))
    (contest,) = of(profile, "wide")
    winner, original = contest.trial(contest.selection.winner).outcome, contest.trial("original").outcome
    assert contest.selection.winner.endswith("fast")
    assert isinstance(winner, Measurement)
    assert isinstance(original, Measurement)
    assert winner.median_us < original.median_us
    assert contest.selection.low <= contest.selection.ratio <= contest.selection.high < 1
    assert winner.parity
    assert profile.complete
    assert all(step.tuned_us for step in profile.steps)


def test_wrong_raising_and_slow_candidates_never_win() -> None:
    """Wrong is refused at parity, raising at the first call, slow leaves the race: each says why."""

    def wrong(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return norm(self, x) * 1.01

    def raising(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel for this architecture")

    events: list[Event] = []
    slow = norm_taking(lambda x: 400)
    profile = tuned(Two(), torch.randn(8, 16), registry_of(wrong, raising, slow), on_event=events.append)
    (contest,) = of(profile, "narrow")
    outcomes = {trial.candidate.rsplit(".", 1)[-1]: trial.outcome for trial in contest.trials}
    assert contest.selection.winner == "original"
    assert isinstance(outcomes["wrong"], Rejection)
    assert outcomes["wrong"].stage == "parity"
    assert isinstance(outcomes["raising"], Rejection)
    assert outcomes["raising"].stage == "first call"
    assert "no such kernel for this architecture" in outcomes["raising"].reason
    assert isinstance(outcomes["forward"], Measurement)
    # By how much is of the machine; from twice on it is told otherwise.
    assert any(words in outcomes["forward"].left_race for words in ("slower than the", "times as slow as the"))
    assert {e.candidate.rsplit(".", 1)[-1] for e in events if isinstance(e, TrialRefused)} == {"wrong", "raising"}
    assert profile.verdict.startswith("Keep the original")
    assert not any(step.tuned_us for step in profile.steps)


def test_wrong_gradients_are_refused_in_train_mode_only() -> None:
    """A candidate whose forward is right and whose gradient is wrong may win inference, never training."""

    class Detached(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 0.9

    def forward_only(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return norm(self, Detached.apply(x))  # type: ignore[no-untyped-call]

    registry = registry_of(forward_only)
    inference = tuned(Two(), torch.randn(8, 16), registry)
    train = tuned(Two(), torch.randn(8, 16), registry, mode="train")
    assert of(inference, "wide")[0].selection.winner != "original"
    refused = of(train, "wide")[0].trials[1].outcome
    assert of(train, "wide")[0].selection.winner == "original"
    assert isinstance(refused, Rejection)
    assert "gradient" in refused.reason


def test_two_widths_of_one_class_get_different_winners(tmp_path: Path) -> None:
    """Two norms of one class with different widths get different winners, and each is bound to its own."""
    likes_narrow = norm_taking(lambda x: 20 if x.shape[-1] == 16 else 190)
    likes_wide = norm_taking(lambda x: 20 if x.shape[-1] == 64 else 190)
    registry = registry_of(likes_narrow, likes_wide)
    model, x = Two(), torch.randn(8, 16)
    before = model(x)
    profile = load_profile(tuned(model, x, registry).save(tmp_path / "p.json"))
    narrow, wide = of(profile, "narrow")[0].selection.winner, of(profile, "wide")[0].selection.winner
    assert {narrow, wide} == {c.name for c in registry.layer("Norm")}
    kernelize_model(model, profile=profile, use_fallback=False, registry=registry)
    bound = {b.path: b.candidate for b in kernelize_report(model).bound}
    assert (bound["narrow"], bound["wide"]) == (narrow, wide)
    torch.testing.assert_close(model(x), before)
    restore_model(model)
    assert torch.equal(model(x), before)
    assert "forward" not in model.wide.__dict__


def test_one_instance_dispatches_by_shape() -> None:
    """With two winners for two shapes each call gets its own; between them more contests say who."""
    calls: list[str] = []

    def likes_short(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        calls.append("short")
        spin(10 if len(x) <= 4 else 190)
        return norm(self, x)

    def likes_long(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        calls.append("long")
        spin(10 if len(x) > 4 else 190)
        return norm(self, x)

    registry = registry_of(likes_short, likes_long)
    model = nn.Sequential(Norm(16))
    profile = tuned(model, [torch.randn(4, 16), torch.randn(32, 16)], registry)
    kernelize_model(model, profile=profile, registry=registry)
    seen = {}
    for rows in (2, 4, 16, 32, 64):
        calls.clear()
        with torch.no_grad():  # as it was measured
            model(torch.randn(rows, 16))
        seen[rows] = tuple(calls)
    assert seen == {2: (), 4: ("short",), 16: ("long",), 32: ("long",), 64: ()}


def test_a_function_slot_is_contested_and_applied() -> None:
    """A registered function of a module competes, is bound for the calls that were measured, and restored."""
    from tests.tune import toy

    def fast_doubled(x: torch.Tensor) -> torch.Tensor:
        return x + x

    registry = Registry()
    register_function_kernel(func_name="doubled", target_module=HERE, func_impl=fast_doubled, registry=registry)
    model, x = Two(), torch.randn(8, 16)
    profile = tuned(model, x, registry)
    (contest,) = profile.winners
    assert contest.slot.name == f"{HERE}.doubled"
    kernelize_model(model, profile=profile, registry=registry)
    assert toy.doubled is not doubled
    restore_model(model)
    assert toy.doubled is doubled


def test_the_model_is_left_as_it_was() -> None:
    """Weights, gradients, training flags, attributes and functions are the same after a run, in train mode too."""
    model = Two()
    model.narrow.eval()
    model.wide.weight.grad = torch.ones(64)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {path: set(module.__dict__) for path, module in model.named_modules()}
    flags = [module.training for module in model.modules()]
    tuned(model, torch.randn(8, 16), registry_of(norm), mode="train")
    assert flags == [module.training for module in model.modules()]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert attributes == {path: set(module.__dict__) for path, module in model.named_modules()}
    assert torch.equal(model.wide.weight.grad, torch.ones(64))
    assert model.narrow.weight.grad is None


def test_a_budget_that_is_used_up_keeps_the_originals() -> None:
    """Contests that the budget does not reach keep the original and say so."""
    profile = tuned(Two(), torch.randn(8, 16), registry_of(norm), budget_s=0.0)
    assert not profile.winners
    assert all("time budget" in contest.selection.reason for contest in profile.contests)


def test_an_interrupt_carries_what_was_finished(tmp_path: Path) -> None:
    """Ctrl-C after the first contest gives a valid partial profile with that contest."""

    def stop_after_one(event: Event) -> None:
        if isinstance(event, ContestFinished):
            raise KeyboardInterrupt

    with pytest.raises(TuneInterrupted) as caught:
        tuned(Two(), torch.randn(8, 16), registry_of(norm), on_event=stop_after_one)
    partial = caught.value.profile
    assert isinstance(partial, Profile)
    assert not partial.complete
    assert len(partial.contests) == 1
    assert "Interrupted after 1 of 2" in partial.verdict
    assert load_profile(partial.save(tmp_path / "partial.json")) == partial


def test_uncalled_slots_are_listed() -> None:
    """A slot that no step called is named in the profile."""
    assert "Norm unused" in tuned(Two(), torch.randn(8, 16), registry_of(norm)).uncalled


def test_bad_arguments_have_one_clear_error() -> None:
    """Unknown candidates, devices, modes, unusable inputs and a kernelized model are refused with what to do."""
    model, x, registry = Two(), torch.randn(8, 16), registry_of(norm)
    with pytest.raises(RegistrationError, match=r"candidates: got 'warp-drive'.*twinkle-tune list"):
        tune_model(model, x, candidates=["warp-drive"], registry=registry)
    with pytest.raises(DeviceError, match="expected one of cpu, cuda"):
        tune_model(model, x, device="abacus")
    with pytest.raises(DeviceError, match="pass device='cpu'"):
        tune_model(model, x, device="npu")
    with pytest.raises(ModeError, match=r"expected one of inference, train, compile, train\+compile"):
        tune_model(model, x, mode="fast")
    with pytest.raises(CaptureError, match="forward"):
        tune_model(model, torch.randn(8, 17), registry=registry)
    kernelize_model(model, registry=registry)
    with pytest.raises(TuneError, match="restore_model"):
        tune_model(model, x, registry=registry)


def test_no_room_for_float64_keeps_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory for the check nobody is timed unchecked: the original stays, and it is said why."""

    def no_room(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 1.00 TiB")

    monkeypatch.setattr("twinkle_tune.contest.call.Judge", no_room)
    profile = tuned(Two(), torch.randn(8, 16), registry_of(norm))
    assert not profile.winners
    refused = of(profile, "wide")[0].trials[1].outcome
    assert isinstance(refused, Rejection)
    assert "no room to check against float64 (OutOfMemoryError: tried to allocate 1.00 TiB)" in refused.reason
