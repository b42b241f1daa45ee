"""What a run may change of a model and of its process, during the run and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from twinkle_tune.call.drawn import random_kept
from twinkle_tune.capture.point import unwrapped
from twinkle_tune.capture.untouched import left_as_found
from twinkle_tune.mode import Mode
from twinkle_tune.tune.state import process_kept


@contextmanager
def without_trace(model: nn.Module, mode: Mode) -> Iterator[None]:
    """The model in train or eval mode; afterwards it, what it reaches, and the process are as they were.

    Whatever happens inside, a KeyboardInterrupt included.
    """
    with process_kept(), random_kept(), left_as_found(model), flags_kept(model, mode):
        yield


@contextmanager
def flags_kept(model: nn.Module, mode: Mode) -> Iterator[None]:
    """The model in train or eval mode, and every module's own flag back afterwards.

    A model that is in the mode already runs as it is, modules of it that are in the other one included: a batch norm
    that is frozen while the rest trains would compute something else, or raise, with its flag turned.
    """
    inner = unwrapped(model)
    flags = [(module, module.training) for module in inner.modules()]
    if inner.training != mode.trains:
        inner.train(mode.trains)
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
