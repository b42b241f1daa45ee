"""One line for a script: the fastest right way of running a model here, found once and applied from then on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from twinkle_tune.capture.step import OF_GENERATION
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import in_a_line
from twinkle_tune.kernel.kernelize import kernelize_model
from twinkle_tune.kernel.setups import digest_of_model, names_of
from twinkle_tune.mode import parse_mode
from twinkle_tune.profile.folders import make_private, usable_folder
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Profile
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.place import available
from twinkle_tune.tune.tune import tune_model
from twinkle_tune.version import TOOL
from twinkle_tune.workload import digest_of

Model = TypeVar("Model", bound=nn.Module)


def optimize_model(
    model: Model,
    example_inputs: object = None,
    *,
    mode: object = "inference",
    device: object = None,
    candidates: str | None = None,
    budget_s: float | str | None = "5m",
) -> Model:
    """Let a model run as fast as was measured to be right here; returns the model.

    A profile that an earlier call stored for this model (its class, settings, layers and size, whatever its weights),
    this machine, these versions and this mode is applied. Where there is none the model is tuned first, with other ways
    of running all of it among the contestants, and the profile is stored. Without example inputs that happens in the
    first call of the model that can be repeated; when tuning is over the original answers it.

    Whatever goes wrong is a warning, and the original runs. ``kernelize_report`` says what runs, ``restore_model``
    undoes it.

    Args:
        model: any module, on its device.
        example_inputs: as of :func:`twinkle_tune.tune_model`; None to take those of the first call.
        mode: "inference" or "train".
        device: by default that of the model's parameters.
        candidates: as of :func:`twinkle_tune.tune_model`.
        budget_s: seconds that tuning may take, or a text such as "90s" or "5m".
    """

    def applied(inputs: object) -> None:
        parsed, place = parse_mode(mode), available(device, model)
        path = _place(model, str(parsed), place)
        profile = _stored(path)
        if profile is None and inputs is not None:
            with Isolated() as executor:
                profile = tune_model(
                    model, inputs, mode=parsed, device=place, candidates=candidates, budget_s=budget_s, ways=True,
                    executor=executor,
                )  # fmt: skip
            _store(profile, path)
        if profile is None:
            _at_first_call(model, lambda found: _guarded(applied, found))
        else:
            kernelize_model(model, profile=profile)

    _guarded(applied, example_inputs)
    return model


def _guarded(applied: Callable[[object], None], inputs: object) -> None:
    try:
        applied(inputs)
    except Exception as error:  # of the user's model, the compiler, the disk: the script goes on with the original
        warnings.warn(f"optimize_model: {in_a_line(error, 300)}; the original runs", stacklevel=3)


def _place(model: nn.Module, mode: str, device: str) -> Path:
    """Where the profile of a model is kept."""
    environment = current_environment(device).fingerprint
    key = digest_of({"model": digest_of_model(model), "mode": mode, "environment": environment, "tool": TOOL})
    return usable_folder(warnings.warn) / "models" / f"{key}.json"


def _stored(path: Path) -> Profile | None:
    return load_profile(path) if path.exists() else None


def _store(profile: Profile, path: Path) -> None:
    try:
        make_private(path.parent)
        profile.save(path)
    except Exception as error:  # it is applied all the same
        warnings.warn(f"optimize_model: the profile is not kept ({in_a_line(error, 200)})", stacklevel=4)


def _at_first_call(model: nn.Module, tune: Callable[[object], None]) -> None:
    """Tune on the arguments of the model's first call that does not go on with a cache."""

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = _repeatable(module, args, kwargs)
        if inputs is not None:
            handle.remove()
            tune(inputs)

    handle = model.register_forward_pre_hook(note, with_kwargs=True)


def _repeatable(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    """A call's arguments as example inputs; None for one that goes on with a cache. A begun cache is left out."""
    named = dict(zip(names_of(model), args, strict=False)) | dict(kwargs)
    cache = named.pop("past_key_values", None)
    if cache is None:
        return args if not kwargs else {name: value for name, value in named.items() if value is not None}
    length = getattr(cache, "get_seq_length", None)
    if length is None or int(length()) > 0:
        return None
    return {name: value for name, value in named.items() if value is not None and name not in OF_GENERATION}
