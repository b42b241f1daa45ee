"""The device's state around a contest reaches its profile, from a worker process too."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.tune.test_choose import contest
from tests.tune.test_confirm import always_fast
from tests.tune.toy import QUICK, Norm
from twinkle_tune import tune_model
from twinkle_tune.contest import contest as contest_module
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.outcome import Conditions, DeviceState
from twinkle_tune.profile.schema import Profile
from twinkle_tune.tune.wire import result_data, result_of


def tuned() -> Profile:
    """A profile of one norm that a fast candidate wins, twice."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=always_fast, device="cpu", registry=registry)
    return tune_model(
        nn.Sequential(Norm(16)), torch.randn(8, 16), registry=registry, settings=QUICK, candidates=["impl"]
    )


def test_each_race_leaves_its_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that grows warmer with every look: both races have their states, the second after the first."""
    degrees = itertools.count(40)
    monkeypatch.setattr(contest_module, "device_state", lambda device: DeviceState(temperature_c=float(next(degrees))))
    (found,) = tuned().contests
    first, second = found.conditions
    heat = [state.temperature_c or 0 for each in (first, second) for state in (each.before, each.after)]
    assert heat[0] == 40.0
    assert heat == sorted(set(heat))
    assert first.repeated == second.repeated == ()


def test_a_repeated_round_is_kept_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock rate that falls once in the race is one repeated round in the profile."""
    rates = itertools.chain([2000.0] * 6, itertools.repeat(1000.0))
    monkeypatch.setattr(contest_module, "device_state", lambda device: DeviceState(clock_mhz=next(rates)))
    (found,) = tuned().contests
    assert [each.repeated for each in found.conditions] == [("the clock rate went from 2000 to 1000 MHz",), ()]


def test_a_machine_that_tells_nothing_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a state to read there are no conditions."""
    monkeypatch.setattr(contest_module, "device_state", lambda device: DeviceState())
    assert [each.conditions for each in tuned().contests] == [()]


def test_conditions_come_back_from_a_worker() -> None:
    """What a worker sends as JSON is read as the same values."""
    known = Conditions(
        before=DeviceState(clock_mhz=2000.0, temperature_c=50.5, throttled=3),
        after=DeviceState(throttling="power brake"),
        repeated=("the processor was throttled",),
    )
    made = contest("Norm", original_us=10.0, ratio=0.9)
    sent = json.loads(json.dumps(result_data(replace(made, conditions=(known,)))))
    assert result_of(sent).conditions == (known,)
    sent["conditions"][0]["before"]["clock_mhz"] = "fast"
    with pytest.raises(ValueError, match="fast"):
        result_of(sent)
