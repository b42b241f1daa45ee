"""What a call of ``kernelize_model`` comes to, before anything is bound: the plan, what is said, what is an error."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

from twinkle_tune.device import is_available, parse_device
from twinkle_tune.errors import BindError, DeviceError, ModelError, RegistrationError, StaleProfileError, TuneError
from twinkle_tune.kernel.asked import Asked, needs_of, wanted
from twinkle_tune.kernel.match import nothing_to_bind
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.plan_registered import plan_registered
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.kernel.shared import given
from twinkle_tune.profile.hub import Place
from twinkle_tune.profile.schema import Profile

USE_VARIABLE = "TWINKLE_USE_KERNELS"
"""Environment variable: NO makes ``kernelize_model`` leave every model as it is. Default YES."""
KEPT = "original kept: "
"""What a warning begins with that tells why."""
_INSTEAD = " (use_fallback=True keeps the originals instead)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What is to be done with a model.

    Attributes:
        plan: what to bind; None where the model stays as it is.
        where: where winners run, and whose they are, for the report; "" without a profile.
        warnings: what is said where originals may stay.
        error: what is raised where they may not; None where nothing is wrong.
        is_split: whether the ranks of a group would not do the same, so that what was bound before goes, too.
    """

    plan: Plan | None = None
    where: str = ""
    warnings: tuple[str, ...] = ()
    error: TuneError | None = None
    is_split: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What ``kernelize_model`` was called with, but the profile; as of its arguments."""

    model: nn.Module | None
    mode: object
    device: object
    needs_backward: bool | None
    needs_torch_compile: bool | None
    use_fallback: bool
    registry: Registry
    example_inputs: object


def planned(request: Request, loaded: Profile | Place | None) -> Planned:
    """What a call comes to.

    Args:
        request: the call.
        loaded: its profile, or the collection to look for one.

    Raises:
        DeviceError, ModeError: an unknown one, or needs that the profile's mode does not have.
        BindError: a profile without a model.
        ModelError: the model is none.
    """
    model = request.model
    if model is not None and not isinstance(model, nn.Module):
        raise not_a_module(model)
    mode = wanted(
        request.mode,
        loaded.mode if isinstance(loaded, Profile) else None,
        request.needs_backward,
        request.needs_torch_compile,
    )
    device = _device(request, loaded)
    if os.environ.get(USE_VARIABLE, "YES").strip().upper() not in ("YES", "TRUE", "1", "ON"):
        return Planned()
    if _run_by_transformers(model):
        return _left(
            BindError(
                "transformers binds kernels of its own to this model (use_kernels=True), at each train() and eval() "
                "anew; the model stays as it is: load it without use_kernels"
            )
        )
    if not is_available(device):
        problem = f"device {device!r} is not available here; the originals stay: pass a device that is there"
        return _left(DeviceError(problem))
    if loaded is not None:
        found = given(model, loaded, device, mode, request.registry, request.example_inputs)
        where = " ".join(text for text in (*mode.where, found.whose) if text)
        told = (found.told,) if found.told else ()
        problems = (*found.plan.stale, *(f"{kept.slot}: {kept.reason}" for kept in found.lost))
        stale = StaleProfileError("; ".join((*told, *problems)) + _INSTEAD) if problems else None
        return Planned(plan=found.plan, where=where, warnings=(*told, *_kept(found.plan)), error=stale)
    trains = model is not None and model.training
    needs = needs_of(
        mode, request.needs_backward, request.needs_torch_compile, in_training=trains and request.mode is None
    )
    asked = Asked(
        device=device,
        mode=mode,
        needs=needs,
        also_in_training=request.needs_backward is False or trains,
        registry=request.registry,
    )
    plan = plan_registered(model, asked)
    is_told = request.use_fallback and plan.is_empty and not plan.stale
    nothing = (nothing_to_bind(plan.kept),) if is_told else ()
    problems = (*plan.stale, *(f"{kept.slot}: {kept.reason}" for kept in plan.kept))
    error = RegistrationError("; ".join(problems) + _INSTEAD) if problems else None
    return Planned(plan=plan, warnings=(*nothing, *_kept(plan)), error=error)


def not_a_module(model: object) -> ModelError:
    """The error for a model that is no module, with what to do instead: a name is for the command line."""
    if isinstance(model, str):
        return ModelError(
            f"model: got the name {model!r}, expected a torch module; load it first (AutoModelForCausalLM"
            f".from_pretrained({model!r})), or run 'twinkle-tune profile {model}'"
        )
    return ModelError(
        f"model: got a {type(model).__name__}, expected a torch module (torch.nn.Module); load the model first"
    )


def device_of(model: nn.Module | None) -> str:
    """The device of a model's parameters; "cpu" where it has none."""
    parameter = next(model.parameters(), None) if model is not None else None
    kind = "cpu" if parameter is None else parameter.device.type
    return "rocm" if kind == "cuda" and torch.version.hip is not None else kind


def _device(request: Request, loaded: Profile | Place | None) -> str:
    if request.device is not None:
        return parse_device(request.device)
    return loaded.device if isinstance(loaded, Profile) else device_of(request.model)


def _left(error: TuneError) -> Planned:
    return Planned(warnings=(str(error),), error=error)


def _kept(plan: Plan) -> tuple[str, ...]:
    return tuple(KEPT + reason for reason in plan.stale)


def _run_by_transformers(model: nn.Module | None) -> bool:
    return model is not None and any(getattr(module, "_use_kernels", False) is True for module in model.modules())
