"""Whole models in device graphs: what wins a contest is bound, and generates what the original does."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.catalog.catalog_families import tiny
from tests.fake_cuda import FakeDevice, replaying
from tests.kernel.test_generation import prompt, says
from tests.kernel.test_setups import calls_in, profile_of
from tests.measure.test_clock import NEEDS_CUDA
from tests.told import told_clock
from tests.tune.toy import QUICK
from twinkle_tune import kernelize_model, kernelize_report, restore_model, tune_model
from twinkle_tune.contest import model as model_stage
from twinkle_tune.environment import current_environment
from twinkle_tune.kernel import Registry
from twinkle_tune.strategy.device_graphs import DeviceGraphs

STATIC = {"cache_implementation": "static", "disable_compile": True}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A device whose replays compute."""
    return replaying(monkeypatch)


@pytest.mark.parametrize(("family", "rows"), [("qwen3", 1), ("llama", 3)])
def test_a_generation_on_a_static_cache_is_replayed(family: str, rows: int, device: FakeDevice) -> None:
    """Token for token, one row, and three padded on the left; on a cache that grows the original runs."""
    model: Any = tiny(family, num_hidden_layers=2)
    asked = prompt(rows, 6, padded=rows > 1)
    said = says(model, asked, **STATIC)
    seen = calls_in(model, partial(says, model, asked, **STATIC))
    kernelize_model(model, profile=profile_of(model, "device graphs", calls=list(dict.fromkeys(seen))))
    for number in (1, 2):
        assert torch.equal(says(model, asked, **STATIC), said)
        assert device.log.count("capture begins") >= number
    replayed = device.log.count("replay")
    assert replayed >= 4
    assert torch.equal(says(model, asked), said)
    handle = model.model.layers[0].register_forward_hook(lambda *_: None)
    assert torch.equal(says(model, asked, **STATIC), said)
    handle.remove()
    assert device.log.count("replay") == replayed
    assert str(kernelize_report(model)).startswith("bound  Model: device graphs")
    restore_model(model)
    assert torch.equal(says(model, asked, **STATIC), said)


class Slow(nn.Module):
    """Layers whose launches take the host time."""

    clock: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, 8) to the same."""
        Slow.clock.us += 900
        made: Tensor = self.layers(x)
        return made


def test_they_win_a_contest_and_are_bound(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right and faster, for the shape that was shown alone: each other one would be captured."""
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    monkeypatch.setattr(Slow, "clock", told_clock(monkeypatch))
    for place in ("way_contest", "way_figures"):
        monkeypatch.setattr(f"twinkle_tune.tune.{place}.STRATEGIES", (DeviceGraphs(),))
    model, x = Slow().eval(), torch.randn(2, 8, 8)
    profile = tune_model(model, x, registry=Registry(), settings=QUICK, candidates=["original"], ways=True)
    (step,) = profile.compiled
    assert (step.way, step.problem, step.is_clear) == ("device graphs", "", True)
    assert {call.workload.tensors[0].shape for setup in profile.setups for call in setup.calls} == {(2, 8, 8)}
    assert "forward" not in vars(model)
    kernelize_model(model, profile=profile)
    with torch.no_grad():
        before = device.log.count("replay")
        for given in (x, torch.randn(2, 8, 8), torch.randn(3, 8, 8)):
            assert torch.equal(model(given), model.layers(given))
        assert device.log.count("replay") == before + 2
    model(x).sum().backward()


def test_who_fails_on_the_device_is_the_original_again(device: FakeDevice) -> None:
    """A warning names the reason, once, and every call is answered."""

    class Waits(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1.0 if x.sum().item() else 2.0)

    model, x = Waits(8, 8).eval(), torch.randn(2, 8)
    kernelize_model(model, profile=profile_of(model, "device graphs", ((x,), {})))
    with torch.no_grad():
        expected = Waits.forward(model, x)
        with pytest.warns(UserWarning, match="device graphs: a call of it failed .* cannot be captured"):
            assert torch.equal(model(x), expected)
        assert torch.equal(model(x), expected)
    assert "the original runs" in str(kernelize_report(model))


def test_a_profile_of_a_device_binds_nothing_elsewhere() -> None:
    """The reason is told."""
    model = nn.Linear(8, 8).eval()
    with pytest.warns(UserWarning, match="it is for CUDA devices"):
        kernelize_model(model, profile=profile_of(model, "device graphs", ((torch.randn(2, 8),), {})))
    assert "device graphs: it is for CUDA devices, and the model is on cpu" in str(kernelize_report(model))


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3_text"])
def test_on_a_device_it_says_what_the_original_says(family: str) -> None:
    """Greedy, on a static cache; and a prefill's logits and cache, for prompts of one length, are the original's."""
    model: Any = tiny(family, num_hidden_layers=2).cuda()
    asked = {"input_ids": prompt(1, 6, padded=False)["input_ids"].cuda()}
    others = [{"input_ids": torch.randint(3, 60, (1, 6), device="cuda")} for _ in range(3)]
    said = [says(model, each, **STATIC) for each in (asked, *others)]
    with torch.no_grad():
        filled = [model(**each, use_cache=True) for each in (asked, *others)]
    seen = calls_in(model, partial(says, model, asked, **STATIC))
    seen += calls_in(model, torch.no_grad()(partial(model, **asked)))
    profile = profile_of(model, "device graphs", calls=list(dict.fromkeys(seen)))
    kernelize_model(model, profile=replace(profile, device="cuda", environment=current_environment("cuda")))
    with torch.no_grad():
        answers = [model(**each, use_cache=True) for each in (asked, *others)]
    for answer, expected in zip(answers, filled, strict=True):
        torch.testing.assert_close(answer.logits, expected.logits)
        torch.testing.assert_close(answer.past_key_values.layers[0].keys, expected.past_key_values.layers[0].keys)
    for each, text in zip((asked, *others), said, strict=True):
        assert torch.equal(says(model, each, **STATIC), text)
    assert "device graphs" in str(kernelize_report(model))
    restore_model(model)
    assert torch.equal(says(model, asked, **STATIC), said[0])
