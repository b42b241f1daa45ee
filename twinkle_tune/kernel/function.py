"""Registering kernels for functions, and applying them to the whole process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from twinkle_tune.device import is_available, parse_device
from twinkle_tune.errors import DeviceError, RegistrationError, TuneError
from twinkle_tune.kernel.functions import bind_functions, original_function
from twinkle_tune.kernel.registry import Registry, choose_source, default_registry, make_candidate
from twinkle_tune.mode import Mode, Needs, parse_mode
from twinkle_tune.slot import Candidate, Implementation, Slot, SlotKind, closest
from twinkle_tune.source.direct import Repo


def register_function_kernel(
    func_name: str,
    target_module: str,
    *,
    func_impl: Callable[..., Any] | None = None,
    repo: Repo | None = None,
    repo_id: str | None = None,
    revision: str | None = None,
    version: int | str | None = None,
    repo_path: str | None = None,
    package_name: str | None = None,
    device: object = None,
    mode: object = None,
    registry: Registry | None = None,
) -> None:
    """Register a kernel for ``target_module.func_name``: one more contestant for that slot.

    Exactly one source is given: ``func_impl``, a repo object with ``load()`` (``repo``), a Hub repo (``repo_id`` with
    ``revision`` or ``version``), or a package on disk (``repo_path``, ``package_name``). Nothing is loaded now.

    Args:
        func_name: the function's name in the module; "Class.method" for a method.
        target_module: the full name of that module.
        device: the device that it is for, by name or as a ``kernels.Device``; None for every device.
        mode: as in :func:`twinkle_tune.register_layer_kernel`.

    Raises:
        RegistrationError: none or several sources, or both revision and version.
        DeviceError, ModeError: an unknown device or mode.
    """
    if not isinstance(target_module, str):
        raise RegistrationError(
            f"function kernel {func_name!r}: target_module: got a {type(target_module).__name__}, expected the name of "
            f"the module that holds {func_name}; write register_function_kernel({func_name!r}, 'package.module', "
            "func_impl=...)"
        )
    source = choose_source(
        f"function kernel {target_module}.{func_name}",
        func_name,
        impl=func_impl,
        repo=repo,
        repo_path=repo_path,
        package_name=package_name,
        repo_id=repo_id,
        revision=revision,
        version=version,
    )
    candidate = make_candidate(source, device=device, mode=mode)
    (registry or default_registry).add_function(target_module, func_name, candidate)


def apply_function_kernel(
    *,
    target_module: str | None = None,
    device: str | None = None,
    mode: object = None,
    strict: bool = False,
    registry: Registry | None = None,
) -> list[str]:
    """Put the function kernels that were registered last in their functions' places, for the whole process.

    Undone by ``restore_model(None)``.

    Args:
        target_module: only functions of this module; all if not given.
        device: only kernels for this device (or for every device); if not given, for any that is there.
        mode: only kernels for this mode (or for every mode). Kernels of one mode are passed over, with a warning,
            when no mode is given.
        strict: raise instead of warning, also when nothing was applied.

    Returns:
        "module.function" of each function that was replaced.

    Raises:
        RegistrationError, SourceError: under ``strict`` alone.
        DeviceError, ModeError: an unknown device or mode; under ``strict`` also a device that is not there.
    """
    wanted_device = None if device is None else parse_device(device)
    if wanted_device is not None and not is_available(wanted_device):
        missing = f"device {wanted_device!r} is not available here; the originals stay: pass a device that is there"
        if strict:
            raise DeviceError(missing)
        warnings.warn(missing, stacklevel=2)
        return []
    wanted_mode = None if mode is None else parse_mode(mode)
    problems: list[TuneError] = []
    chosen = choose_functions(registry or default_registry, target_module, wanted_device, wanted_mode, problems)
    if strict and not chosen and not problems:
        problems.append(
            RegistrationError(
                f"no function kernel fits target_module={target_module!r}, device={device!r}, mode={mode!r}; "
                "register one, or loosen the filters"
            )
        )
    if strict and problems:
        raise problems[0]
    for problem in problems:
        warnings.warn(str(problem), stacklevel=2)
    bind_functions(None, {slot: made.call for slot, (_, made) in chosen.items()})
    return [slot.name for slot in chosen]


def choose_functions(
    registry: Registry,
    target_module: str | None,
    device: str | None,
    mode: Mode | None,
    problems: list[TuneError],
    needs: Needs | None = None,
) -> dict[Slot, tuple[str, Implementation]]:
    """Name and code of each function slot's kernel: the closest that fits. Failures go to ``problems``.

    ``needs`` is what it must be able to do; what the mode needs if not given.
    """
    chosen: dict[Slot, tuple[str, Implementation]] = {}
    wanted = needs if needs is not None else Needs() if mode is None else Needs.of(mode)
    for module, name in registry.functions:
        if target_module not in (None, module):
            continue
        best = _closest(registry.function(module, name), device, mode)
        if best is None:
            if mode is None and any(_is_for(c, device) for c in registry.function(module, name)):
                problems.append(
                    RegistrationError(f"{module}.{name}: its kernels are for one mode and none was given; pass mode=")
                )
            continue
        slot = Slot(name=f"{module}.{name}", kind=SlotKind.FUNCTION, target=f"{module}:{name}")
        try:
            loaded = best.source.load(slot, original_function(slot.target))
            if lacking := loaded.lacks(wanted):
                raise RegistrationError(f"{slot.name}: {best.name} cannot be applied: {lacking}")
            chosen[slot] = best.name, loaded
        except TuneError as error:
            problems.append(error)
    return chosen


def _closest(candidates: Sequence[Candidate], device: str | None, mode: Mode | None) -> Candidate | None:
    here = [candidate for candidate in candidates if _is_for(candidate, device)]
    if mode is None:
        return next((candidate for candidate in reversed(here) if not candidate.modes), None)
    return closest(here, mode)


def _is_for(candidate: Candidate, device: str | None) -> bool:
    if device is not None:
        return candidate.is_for(device)
    return candidate.device is None or (is_available(candidate.device) and candidate.is_for(candidate.device))
