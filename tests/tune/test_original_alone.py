"""An original that runs in the model and not by itself costs its contest, never the run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tune.toy import QUICK, Norm, norm
from tests.zoo.quick import Quick
from twinkle_tune import kernelize_model, tune_model
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel

ACTIVATIONS = (nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Hardswish(inplace=True))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda module: type(module).__name__)
def test_an_activation_that_writes_into_its_input_does_not_end_a_training_run(activation: nn.Module) -> None:
    """Its contest keeps the original and says why; the norm beside it is tried, and the profile can be applied."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=norm, device="cpu", registry=registry)
    model = nn.Sequential(nn.Linear(8, 16), activation, Norm(16), nn.Linear(16, 4))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    profile = tune_model(
        model,
        torch.randn(4, 8),
        mode="train",
        registry=registry,
        settings=QUICK,
        candidates=["impl"],
        executor=Quick(),
    )
    kept = [contest for contest in profile.contests if not contest.trials]
    assert all("the original raised" in contest.selection.reason for contest in kept)
    (held,) = (contest for contest in profile.contests if contest.slot.name == "Norm")
    assert {trial.candidate for trial in held.trials} == {"original", "impl:norm"}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    kernelize_model(model, profile=profile, registry=registry, use_fallback=False)


def test_where_nobody_can_be_judged_the_contest_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    """An original that takes the model's own inputs alone: the contest is not one in which others were refused."""
    registry, inputs, alone = Registry(), torch.randn(4, 16), Norm.forward
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=norm, device="cpu", registry=registry)

    def particular(self: Norm, x: torch.Tensor) -> torch.Tensor:
        if not torch.equal(x.float(), inputs):
            raise ValueError("these are not the inputs")
        return alone(self, x)

    monkeypatch.setattr(Norm, "forward", particular)
    made = tune_model(
        nn.Sequential(Norm(16)), inputs, registry=registry, settings=QUICK, candidates=["impl"], executor=Quick()
    )
    (contest,) = made.contests
    assert contest.status == "inconclusive"
    assert contest.selection.reason.startswith("inconclusive: ")
    assert "these are not the inputs" in contest.selection.reason


def test_an_original_without_rivals_is_run_for_no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody competes the original is timed, and no reference for a comparison is made."""
    made: list[object] = []
    monkeypatch.setattr("twinkle_tune.contest.call.Judge", lambda *args, **kwargs: made.append(args))
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    profile = tune_model(
        nn.Sequential(Norm(16)), torch.randn(4, 16), registry=registry, settings=QUICK, candidates=["original"],
        executor=Quick(),
    )  # fmt: skip
    (contest,) = profile.contests
    assert (contest.status, [trial.candidate for trial in contest.trials]) == ("nothing to gain", ["original"])
    assert not made
