"""Applying kernels to a model, and undoing it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from twinkle_tune.errors import BindError
from twinkle_tune.kernel.functions import bind_functions, functions_aside, unbind_functions, why_function_not_running
from twinkle_tune.kernel.owner import owner_of, telling_parts
from twinkle_tune.kernel.patch import (
    Binding,
    bind_forward,
    bind_owner,
    binding_of,
    bound_call,
    replaced_by_another,
    restore_forward,
    why_not_running,
)
from twinkle_tune.kernel.plan import Kept, Plan
from twinkle_tune.kernel.planned import Planned, Request, not_a_module, planned
from twinkle_tune.kernel.ranks import Ranks, agreed, first_s_profile
from twinkle_tune.kernel.record import record_of
from twinkle_tune.kernel.registry import Registry, default_registry
from twinkle_tune.kernel.shared import opened
from twinkle_tune.profile.schema import Profile
from twinkle_tune.slot import MODEL

_REPORT = "_twinkle_tune_report"
Model = TypeVar("Model", bound=nn.Module | None)


@dataclass(frozen=True, slots=True)
class KernelizeReport:
    """What ``kernelize_model`` did: what was bound where, and what kept its original and why."""

    bound: tuple[Binding, ...] = ()
    kept: tuple[Kept, ...] = ()
    functions: frozenset[str] = field(default=frozenset(), repr=False)
    """Which slots of ``bound`` are functions."""
    where: str = ""
    """Where a profile's winners run: in the grad mode that they were measured in; "" where nothing was measured."""

    def __reduce__(self) -> tuple[type[KernelizeReport], tuple[()]]:
        return KernelizeReport, ()  # an unpickled model has its originals

    def __deepcopy__(self, memo: object) -> KernelizeReport:
        return self  # a copied one has its kernels

    def __str__(self) -> str:
        lines = [
            f"bound  {b.slot} {b.path}".rstrip()
            + f": {b.candidate} (rows: {b.rows}{'' if b.is_checked else '; unchecked'})"
            for b in self.bound
        ]
        lines += [f"kept   {k.slot}: {k.reason}" for k in self.kept]
        lines += [self.where] if self.bound and self.where else []
        return "\n".join(lines) or "nothing bound"


def kernelize_model(
    model: Model,
    mode: object = None,
    device: object = None,
    use_fallback: bool = True,
    profile: str | Path | Profile | None = None,
    *,
    example_inputs: object = None,
    registry: Registry | None = None,
    needs_backward: bool | None = None,
    needs_torch_compile: bool | None = None,
    group: object = None,
) -> Model:
    """Put kernels in the places of a model's layers and of functions, in place; returns the model.

    With a profile its winners are bound, each instance by the shapes that it was measured on. Without one a slot takes
    what is registered here for the device and mode (the closest mode, of these the last registered), else what the
    mapping of the ``kernels`` package has for its name: nobody compared it with the original, and
    :func:`kernelize_report` says "unchecked". What was bound to the model before is
    undone first. Either everything planned is bound or, on an error, the model is as it was.

    Args:
        model: any module; None where only functions are meant.
        mode: "train", "inference", "compile", "train+compile" or a ``kernels.Mode``; by default the profile's mode,
            else what ``needs_backward`` and ``needs_torch_compile`` say, else "inference".
        device: by default the profile's device, else that of the model's parameters, else "cpu".
        use_fallback: whether a slot whose kernel is missing, stale or unfit keeps its original, with a warning;
            if not, that is an error, and so is a layer that is named for kernels (by a decorator of ``kernels``, or
            :func:`register_external_layer`) and gets none.
        profile: a profile, the path of one, or "hub:owner/name": a collection on the Hub, whose profile of this model
            and mode is bound if it was made on a machine like this one (:mod:`twinkle_tune.profile.collection`).
        example_inputs: as of :func:`twinkle_tune.tune_model`: what a profile from another machine is tried on. Each of
            its winners competes with the original alone, and is bound if it is right and faster here; a warning says
            in what the machine differs and how many were confirmed. It takes two minutes at most, beside the time of a
            contest, or a compilation, that has begun. Meanwhile the model has its originals, and afterwards where
            nothing is bound or an error is raised. By default a profile from another machine is not bound. Of no
            ``group``.
        needs_backward: whether kernels without a backward (``has_backward = False``) are left out. By default they are
            in a mode that trains, and for a model in training mode if ``mode`` is not given. One that is bound all
            the same steps aside, with a warning, once the model is put into training, unless this is False.
        needs_torch_compile: whether kernels that cannot be compiled (``can_torch_compile = False``) are left out; by
            default in the compile modes.
        group: a ``torch.distributed`` process group whose ranks all make this call on the same model: all bind the
            same, or none does and rank 0 says why. Rank 0's profile is taken; other ranks need no file.

    Raises:
        DeviceError, ModeError: unknown, or (without fallback) a device that is not there; a profile is for inference
            and ``needs_backward`` is True, or for no compile mode and ``needs_torch_compile`` is.
        ModelError: the model is none.
        ProfileError: the profile cannot be read, its name on the Hub is none, or it is none of what is taken.
        StaleProfileError: without fallback, an entry that does not hold any more.
        RegistrationError: without fallback, a registered kernel that cannot be had.
        BindError: binding failed, or another rank met an error; nothing is bound. Of a ``group``: it is none, or,
            without fallback, its ranks would not do the same. ``example_inputs`` without a profile, or with a group.
    """
    request = Request(
        model=model,
        mode=mode,
        device=device,
        needs_backward=needs_backward,
        needs_torch_compile=needs_torch_compile,
        use_fallback=use_fallback,
        registry=registry or default_registry,
        example_inputs=example_inputs,
    )
    if group is not None and example_inputs is not None:
        raise BindError(
            "example_inputs, group: got both, expected one: winners are tried in one process; try them there, with "
            "'twinkle-tune profile --from-hub', and give the group that profile"
        )
    if example_inputs is not None and profile is None:
        raise BindError(
            "example_inputs: got them without a profile, expected both: they are what the winners of a profile from "
            "another machine are tried on; pass profile=, or make one of them with tune_model(model, example_inputs)"
        )
    ranks = None if group is None else Ranks.of(group)
    if ranks is None:
        found = planned(request, opened(profile))
        if found.error is not None and not use_fallback:
            raise found.error
        for told in found.warnings:
            warnings.warn(told, stacklevel=2)
        _bind_found(model, found)
        return model
    loaded = first_s_profile(ranks, profile)
    found = agreed(ranks, lambda: planned(request, loaded), strict=not use_fallback)
    if found.is_split or found.error is None or use_fallback:
        try:
            ranks.together(lambda: _bind_found(model, found))
        except BaseException:
            restore_model(model)
            raise
    if found.error is not None and not use_fallback:
        raise found.error
    # Last: a warning may be an error of this rank alone.
    for told in found.warnings:
        warnings.warn(told, stacklevel=2)
    return model


def _bind_found(model: nn.Module | None, found: Planned) -> None:
    if found.plan is None:
        return
    bind_plan(model, found.plan)
    if model is not None and found.where:
        model.__dict__[_REPORT] = replace(model.__dict__[_REPORT], where=found.where)


def restore_model(model: nn.Module | None) -> None:
    """Undo :func:`kernelize_model`: every layer and function of the model has its original back.

    Functions that other models (or the process) bound stay bound for them. ``None`` undoes what was applied
    without a model.

    Raises:
        ModelError: it is no module.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise not_a_module(model)
    unbind_functions(model)
    if model is not None:
        for module in model.modules():
            restore_forward(module)
        model.__dict__.pop(_REPORT, None)


@contextmanager
def unbound(model: nn.Module) -> Iterator[None]:
    """Within, the model has its originals; afterwards it has again what was bound to it, whatever happened."""
    modules = list(model.modules())
    before, report = _bound_layers(modules), model.__dict__.get(_REPORT)
    told = record_of(model).owner is not None
    with functions_aside(model):
        restore_model(model)
        try:
            yield
        finally:
            for module in modules:
                restore_forward(module)
            _bind_layers([each for each in before if not replaced_by_another(each[0])])
            if told:
                _tell_whose(model)
            if report is not None:
                model.__dict__[_REPORT] = report


@contextmanager
def kernelized(
    model: Model,
    mode: object = None,
    device: object = None,
    use_fallback: bool = True,
    profile: str | Path | Profile | None = None,
    *,
    example_inputs: object = None,
    registry: Registry | None = None,
    needs_backward: bool | None = None,
    needs_torch_compile: bool | None = None,
    group: object = None,
) -> Iterator[Model]:
    """As :func:`kernelize_model` within a ``with`` block; restored after it."""
    kernelize_model(
        model, mode, device, use_fallback, profile, example_inputs=example_inputs, registry=registry, group=group,
        needs_backward=needs_backward, needs_torch_compile=needs_torch_compile,
    )  # fmt: skip
    try:
        yield model
    finally:
        restore_model(model)


def kernelize_report(model: nn.Module) -> KernelizeReport:
    """What is bound to a model and what kept its original; empty for a model that was not kernelized.

    What was bound and does not run any more, because somebody replaced it or a submodule, is among ``kept``.

    Raises:
        ModelError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise not_a_module(model)
    report = model.__dict__.get(_REPORT)
    if not isinstance(report, KernelizeReport):
        return KernelizeReport()
    there = {found: m for m in model.modules() if (found := binding_of(m))}
    lost: dict[Binding, str] = {}
    for binding in report.bound:
        if binding in there:
            lost[binding] = why_not_running(there[binding])
        elif binding.slot not in report.functions:
            lost[binding] = "it is not part of the model any more: another stands in its place; kernelize again"
        else:
            lost[binding] = why_function_not_running(model, binding.slot)
    if not any(lost.values()):
        return report
    return KernelizeReport(
        bound=tuple(b for b in report.bound if not lost[b]),
        kept=(
            *report.kept,
            *(Kept(slot=f"{b.slot} {b.path}".rstrip(), reason=why) for b, why in lost.items() if why),
        ),
        functions=report.functions,
        where=report.where,
    )


def bind_plan(model: nn.Module | None, plan: Plan) -> None:
    """Bind all of a plan, or nothing: what had been bound before is put back on an error.

    Raises:
        BindError: an instance's forward, or a function, was replaced by somebody else.
    """
    modules = [] if model is None else list(model.modules())
    before = _bound_layers(modules)
    told = bool(modules) and record_of(modules[0]).owner is not None
    try:
        for module in modules:
            restore_forward(module)
        _bind_layers(plan.layers)
        if model is not None and plan.functions:
            _tell_whose(model)
        # In the places of what the model had bound, so that it stays the first where it was.
        bind_functions(model, {slot: replacement for slot, replacement, _ in plan.functions})
        unbind_functions(model, keep={slot.target for slot, _, _ in plan.functions})
    except BaseException:
        for module in modules:
            restore_forward(module)
        _bind_layers(before)
        if told:
            _tell_whose(modules[0])
        raise
    if model is not None:
        bound = (*(b for _, _, b in plan.layers), *(b for _, _, b in plan.functions))
        kept = (*plan.kept, *(Kept(slot="profile", reason=reason) for reason in plan.stale))
        model.__dict__[_REPORT] = KernelizeReport(bound, kept, frozenset(b.slot for _, _, b in plan.functions))


def _bound_layers(modules: Sequence[nn.Module]) -> list[tuple[nn.Module, Callable[..., Any], Binding]]:
    return [
        (m, call, found)
        for m in modules
        if (found := binding_of(m)) is not None and (call := bound_call(m)) is not None
    ]


def _bind_layers(layers: Sequence[tuple[nn.Module, Callable[..., Any], Binding]]) -> None:
    """Bind forwards; beside a way of running the whole model kernels step aside where it wants the originals."""
    beside_a_way = any(binding.slot == MODEL for _, _, binding in layers)
    for module, call, binding in layers:
        bind_forward(module, call, binding, steps_aside=beside_a_way and binding.slot != MODEL)


def _tell_whose(model: nn.Module) -> None:
    """Let the model's forwards tell whose they are: the functions that are bound ask."""
    owner, binding = owner_of(model), binding_of(model)
    for module in telling_parts(model):
        bind_owner(module, owner, steps_aside=binding is not None and binding.slot == MODEL)
