"""One line for a script: the fastest right way of running a model here, found once and applied from then on."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from twinkle_tune.capture.step import OF_GENERATION
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import ProfileError, in_a_line
from twinkle_tune.kernel.kernelize import kernelize_model
from twinkle_tune.kernel.setup_calls import names_of
from twinkle_tune.kernel.setups import digest_of_model
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
    of running all of it among the contestants, and the profile is stored; so it is where what is stored is damaged.
    Without example inputs that happens in the first call of the model that can be repeated; when tuning is over the
    original answers it.

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

    asked = _Asked(mode=mode, device=device, candidates=candidates, budget_s=budget_s)
    for key in [key for key, hook in model._forward_pre_hooks.items() if isinstance(hook, _FirstCall)]:
        del model._forward_pre_hooks[key]  # of an earlier call, or of the model that this one was copied from
        model._forward_pre_hooks_with_kwargs.pop(key, None)
    asked.apply(model, example_inputs)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What :func:`optimize_model` was asked for."""

    mode: object
    device: object
    candidates: str | None
    budget_s: float | str | None

    def apply(self, model: nn.Module, inputs: object) -> None:
        """Apply what is stored or found; whatever goes wrong is a warning."""
        try:
            self._apply(model, inputs)
        except Exception as error:  # of the user's model, the compiler, the disk: the script goes on with the original
            warnings.warn(f"optimize_model: {in_a_line(error, 300)}; the original runs", stacklevel=4)

    def _apply(self, model: nn.Module, inputs: object) -> None:
        parsed, place = parse_mode(self.mode), available(self.device, model)
        path = _place(model, str(parsed), place)
        profile = _stored(path)
        if profile is None and inputs is not None:
            with Isolated(ahead=True) as executor:
                profile = tune_model(
                    model, inputs, mode=parsed, device=place, candidates=self.candidates, budget_s=self.budget_s,
                    ways=True, executor=executor,
                )  # fmt: skip
            _store(profile, path)
        if profile is None:
            hook = _FirstCall(self)
            hook.handle = model.register_forward_pre_hook(hook, with_kwargs=True)
        else:
            kernelize_model(model, profile=profile)


class _FirstCall:
    """A hook that tunes on the arguments of the first call that does not go on with a cache, and is gone then.

    It holds no model. A copy or a pickle of the model has one that does nothing.
    """

    def __init__(self, asked: _Asked | None = None) -> None:
        self._asked = asked
        self.handle: RemovableHandle | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None or self._asked is None:
            return
        inputs = _repeatable(module, args, kwargs)
        if inputs is not None:
            assert self.handle is not None
            self.handle.remove()
            self._asked.apply(module, inputs)

    def __deepcopy__(self, memo: object) -> _FirstCall:
        return _FirstCall()

    def __reduce__(self) -> tuple[type[_FirstCall], tuple[()]]:
        return _FirstCall, ()


def _place(model: nn.Module, mode: str, device: str) -> Path:
    """Where the profile of a model is kept."""
    environment = current_environment(device).fingerprint
    key = digest_of({"model": digest_of_model(model), "mode": mode, "environment": environment, "tool": TOOL})
    return usable_folder(warnings.warn) / "models" / f"{key}.json"


def _stored(path: Path) -> Profile | None:
    """The profile that is kept there; None where there is none, or what is there is no profile (any more), and removed.

    Raises:
        ProfileError: the disk does not give it.
    """
    try:
        return load_profile(path) if path.exists() else None
    except ProfileError as error:
        if isinstance(error.__cause__, OSError):
            raise
        warnings.warn(f"optimize_model: the model is tuned anew ({in_a_line(error, 300)})", stacklevel=5)
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def _store(profile: Profile, path: Path) -> None:
    try:
        make_private(path.parent)
        profile.save(path)
    except Exception as error:  # it is applied all the same
        warnings.warn(f"optimize_model: the profile is not kept ({in_a_line(error, 200)})", stacklevel=4)


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
