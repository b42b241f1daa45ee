"""One line for a script: the fastest right way of running a model here, found once and applied from then on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from twinkle_tune.capture.given import repeatable
from twinkle_tune.device import torch_type
from twinkle_tune.errors import TuneError, in_a_line
from twinkle_tune.kernel.kernelize import kernelize_model
from twinkle_tune.kernel.measured import casts_to
from twinkle_tune.kernel.planned import not_a_module
from twinkle_tune.mode import parse_mode
from twinkle_tune.tune.budget import seconds_of
from twinkle_tune.tune.group import processes_of_the_job
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.kept import keep, may_find_more, place_of, stored
from twinkle_tune.tune.place import available
from twinkle_tune.tune.tune import tune_model

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
    of running all of it among the contestants, and the profile is stored; so it is where what is stored is damaged, or
    was not finished in less time than there is now.
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

    Raises:
        ModelError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise not_a_module(model)
    asked = _Asked(mode=mode, device=device, candidates=candidates, budget_s=budget_s)
    for key in [key for key, hook in model._forward_pre_hooks.items() if isinstance(hook, _FirstCall)]:
        del model._forward_pre_hooks[key]  # of an earlier call, or of the model that this one was copied from
        model._forward_pre_hooks_with_kwargs.pop(key, None)
    asked.apply(model, example_inputs)
    return model


def _warned(line: str) -> None:
    warnings.warn(f"optimize_model: {line}", stacklevel=6)


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
        seconds, parsed, place = seconds_of(self.budget_s), parse_mode(self.mode), available(self.device, model)
        path = place_of(model, parsed, place, warnings.warn, casts_to(torch_type(place)))
        profile = stored(path, _warned)
        if profile is not None and may_find_more(profile, seconds):
            profile = None
        if profile is None and (ranks := processes_of_the_job()) > 1:
            raise TuneError(
                f"no profile is stored, and each of {ranks} processes would find its own; call tune_model and "
                "kernelize_model with group=torch.distributed.group.WORLD on all of them"
            )
        if profile is None and inputs is not None:
            with Isolated(ahead=True) as executor:
                profile = tune_model(
                    model, inputs, mode=parsed, device=place, candidates=self.candidates, budget_s=self.budget_s,
                    ways=True, executor=executor,
                )  # fmt: skip
            keep(profile, path, _warned)
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
        inputs = repeatable(module, args, kwargs)
        if inputs is not None:
            assert self.handle is not None
            self.handle.remove()
            self._asked.apply(module, inputs)

    def __deepcopy__(self, memo: object) -> _FirstCall:
        return _FirstCall()

    def __reduce__(self) -> tuple[type[_FirstCall], tuple[()]]:
        return _FirstCall, ()
