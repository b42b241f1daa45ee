"""Tuning a model on what a script called it with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from twinkle_tune.kernel.setups import digest_of_model
from twinkle_tune.profile.schema import Profile
from twinkle_tune.script.made import examples_of, plain_device
from twinkle_tune.script.recording import ModelSeen
from twinkle_tune.tune.autocast import autocast_to
from twinkle_tune.tune.tune import tune_model


def tuned(model: nn.Module, seen: ModelSeen, optimizer: Callable[..., Any] | bool | None, **options: Any) -> Profile:
    """Tune a model on inputs like those that it was called with, in the mode and under the autocast of its calls.

    Args:
        model: the one that was seen, or one of its form.
        seen: its calls.
        optimizer: makes one like that which stepped it; None for none. No matter where nothing is trained.
        options: as of :func:`twinkle_tune.tune_model`.

    Raises:
        CaptureError: its inputs cannot be made.
        TuneError: as of :func:`twinkle_tune.tune_model`.
    """
    chosen: dict[str, Any] = {"mode": seen.mode, "name": seen.name}
    if seen.mode.trains:
        chosen["optimizer"] = optimizer or False
    chosen |= options
    with autocast_as(seen):
        return tune_model(model, examples_of(seen, plain_device(model)), **chosen)


def autocast_as(seen: ModelSeen) -> AbstractContextManager[Any]:
    """The autocast that the script opens around a model's calls; what is opened inside of the model opens again."""
    calls = max(seen.of_its_mode, key=lambda each: each.count, default=None)
    return autocast_to("" if calls is None else calls.workload.context.autocast, seen.device)


def is_still(model: nn.Module, seen: ModelSeen) -> bool:
    """Whether a model has the form that it had when it was first seen."""
    return digest_of_model(model) == seen.digest
