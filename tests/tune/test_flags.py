"""Train flags during a run: a model that is in the mode already runs as the user set it."""

from __future__ import annotations

import contextlib

import pytest
from torch import nn

from twinkle_tune.mode import Mode
from twinkle_tune.tune.flags import flags_kept


def _model() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 4), nn.BatchNorm1d(4))


def _flags(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("mode", [Mode.TRAIN, Mode.INFERENCE])
def test_what_the_user_set_apart_stays_so(mode: Mode) -> None:
    """Frozen norms stay in eval in training, and a dropout that is on in inference stays on."""
    model = _model().train(mode.trains)
    model[0].train(not mode.trains)
    model[3].train(not mode.trains)
    before = _flags(model)
    with flags_kept(model, mode):
        assert _flags(model) == before
    assert _flags(model) == before


@pytest.mark.parametrize("mode", [Mode.TRAIN, Mode.INFERENCE])
def test_a_model_in_the_other_mode_is_put_into_this_one(mode: Mode) -> None:
    """All modules of a model whose own flag is the other way are turned, and turned back after an error."""
    model = _model().train(not mode.trains)
    model[1].train(mode.trains)
    before = _flags(model)
    with contextlib.suppress(KeyboardInterrupt), flags_kept(model, mode):
        assert set(_flags(model)) == {mode.trains}
        raise KeyboardInterrupt
    assert _flags(model) == before
