"""Training under a way of running the whole model follows the original's, step by step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager
from torch._inductor import compile_fx as inductor

from tests.catalog.catalog_families import tiny
from tests.kernel.test_generation import FAMILIES, spied
from tests.kernel.test_setups import profile_of
from tests.today import of_today
from twinkle_tune import kernelize_model, restore_model
from twinkle_tune.contest.agree import FACTOR, Noise, _noisy_everywhere
from twinkle_tune.kernel.kernelize import bind_plan
from twinkle_tune.kernel.setup_calls import call_of
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Profile

pytestmark = pytest.mark.usefixtures("compiled_anew")

STEPS = 20
TEXTS = 4
IDS = torch.randint(3, 60, (TEXTS, 2, 12), generator=torch.Generator().manual_seed(0)).repeat(STEPS // TEXTS, 1, 1)


def made(family: str, layers: int) -> Any:
    """One that trains; without dropout, which compiled code draws from the same seed otherwise."""
    model = tiny(family, num_hidden_layers=layers).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def losses_of(model: Any) -> list[float]:
    """Those of steps of AdamW, each text again and again; the model is trained by them."""
    optimizer, found = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for ids in IDS:
        loss: Tensor = model(input_ids=ids, labels=ids).loss
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def trained_by(model: Any, way: str) -> Profile:
    """A profile in which a way won the training step."""
    call = call_of(model, (), {"input_ids": IDS[0], "labels": IDS[0]})
    (setup,) = (profile := profile_of(model, way)).setups
    return replace(profile, setups=(replace(setup, calls=(call,)),), mode=Mode.TRAIN)


def hold_to_the_original(
    family: str, layers: int, way: str, compiler: Callable[..., Any], patch: pytest.MonkeyPatch
) -> None:
    """As far apart as the parity rule lets them: eight times what roundings in each layer bring the original to."""
    calls = spied(patch, compiler)
    model = made(family, layers)
    plain = losses_of(copy.deepcopy(model))
    noises = []
    for seed in range(3):
        noisy = copy.deepcopy(model)
        bind_plan(noisy, _noisy_everywhere(noisy, Noise(seed)))
        noises.append(losses_of(noisy))
    kernelize_model(model, profile=trained_by(model, way))
    found = losses_of(model)
    assert len(calls) >= STEPS
    assert sum(plain[-TEXTS:]) < sum(plain[:TEXTS])
    for step, (mine, its) in enumerate(zip(found, plain, strict=True)):
        limit = max(FACTOR * max(abs(noise[step] - its) for noise in noises), 2 * 2**-23 * its)
        assert abs(mine - its) <= limit, (step, mine, its, limit)
    restore_model(model)
    with torch.no_grad():
        fresh = made(family, layers)
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(model(input_ids=IDS[0]).logits, fresh(input_ids=IDS[0]).logits)


@pytest.mark.parametrize("family", of_today(FAMILIES, 5))
@pytest.mark.parametrize("way", of_today(["compile", "compile blocks"], 2))
def test_twenty_steps_follow_the_originals(family: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their losses, with what is traced not compiled; restored, the trained model is its class's to the bit."""
    hold_to_the_original(family, 1, way, aot_eager, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["compile", "compile blocks"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_alike(family: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By inductor, each of them."""
    hold_to_the_original(family, 2, way, inductor.compile_fx, monkeypatch)
