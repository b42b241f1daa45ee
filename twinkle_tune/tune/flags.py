"""The training flags of a model, during a run and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from twinkle_tune.mode import Mode


@contextmanager
def flags_kept(model: nn.Module, mode: Mode) -> Iterator[None]:
    """The model in train or eval mode, and every module's own flag back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.train(mode.trains)
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
