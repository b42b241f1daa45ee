"""Kernels that somebody registered with the ``kernels`` package: its mappings bring contestants.

Read is the mapping of the present context: what ``register_kernel_mapping`` added (the user, or transformers), and
what a ``use_kernel_mapping`` block holds while it is open.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from twinkle_tune.device import DEVICES, capability, is_available
from twinkle_tune.kernel.functions import original_of
from twinkle_tune.kernel.registry import choose_source, make_candidate
from twinkle_tune.mode import FALLBACKS, Mode, parse_registered_mode, serves_alone
from twinkle_tune.slot import Candidate, Slot, SlotKind
from twinkle_tune.source.package import LocalRepoSource


def is_mapped(name: str) -> bool:
    """Whether the mapping has kernels for a name, for a device that is here."""
    return any(is_available(device) for device in _mapping().get(name, {}) if device in DEVICES)


def may_take_kernels(module: nn.Module) -> bool:
    """Whether the condition of its class lets a module take kernels; True where the class has none."""
    condition = getattr(type(module), "kernel_condition", None)
    return condition is None or bool(condition(module))


def mapped_functions(model: nn.Module) -> Iterator[Slot]:
    """Functions that classes of the model take kernels for, and that the mapping has some for."""
    return (slot for name, slot in named_functions(model) if slot is not None and is_mapped(name))


def named_functions(model: nn.Module) -> Iterator[tuple[str, Slot | None]]:
    """Kernel name and slot of each function that classes of the model take kernels for (``use_kernelized_func``).

    The slot is where the code of the class looks the function up: a name of the file that it was written in; None
    where that file has no such name.
    """
    functions = {
        (type(module), id(function)): function
        for module in model.modules()
        for function in vars(module).get("_kernel_funcs", {}).values()
    }
    found: dict[tuple[str, Slot | None], None] = {}
    for (cls, _), function in functions.items():
        slots: list[Slot | None] = [slot for slot, value in _functions_of_file(cls) if value is function]
        found |= dict.fromkeys((str(kernel_name_of(function)), slot) for slot in slots or [None])
    yield from found


def kernel_name_of(function: object) -> str | None:
    """The kernel name of a function that ``kernels`` made replaceable; None of any other."""
    name = getattr(type(function), "kernel_layer_name", None)
    return None if name is None else str(name)


def mapped(name: str, device: str, mode: Mode) -> tuple[Candidate, ...]:
    """The kernels that the mapping has for a name, on this device and for a mode that may run in ``mode``.

    The closest comes first (:data:`twinkle_tune.mode.FALLBACKS`): it is the one that ``kernels`` takes.
    """
    by_mode = {
        parse_registered_mode(flags): repository
        for flags, repository in (_repositories(name, device) or {}).items()
        if not serves_alone(flags)  # which ``kernels`` takes in no mode
    }
    found: list[Candidate] = []
    for closest in FALLBACKS[mode]:
        if closest in by_mode:
            add_under_own_name(found, _candidate(name, by_mode[closest], device))
    return tuple(found)


def mapped_modes(name: str, device: str) -> str:
    """For which modes the mapping has kernels for a name on this device; "" where it has none for it."""
    return " and ".join(sorted(str(flags) for flags in _repositories(name, device) or {}))


def why_not_mapped(name: str, device: str) -> str:
    """Why the mapping has no kernel for a name on this device."""
    devices = _mapping().get(name, {})
    if not devices:
        return "no kernel is registered or mapped for it"
    if device not in devices:
        return f"the kernel mapping has kernels for {' and '.join(sorted(devices))}, none for {device}"
    if _repositories(name, device) is None:
        return f"the kernel mapping has none for the compute capability {capability(device)} of this device"
    return f"the kernel mapping says that it has none on {device}"


def add_under_own_name(found: list[Candidate], candidate: Candidate) -> None:
    """Add a candidate unless its source is there already; with a number where its name is that of another source."""
    if any(known.source == candidate.source for known in found):
        return
    names, name, number = {known.name for known in found}, candidate.name, 1
    while name in names:
        number += 1
        name = f"{candidate.name}#{number}"
    found.append(replace(candidate, name=name))


def _candidate(name: str, repository: Any, device: str) -> Candidate:
    if type(repository).__module__.partition(".")[0] == "kernels" and hasattr(repository, "_repo_path"):
        folder = LocalRepoSource(repo_path=Path(repository._repo_path), name=str(repository.layer_name))
        return make_candidate(folder, device=device, mode=None)
    return make_candidate(choose_source(f"mapping of {name!r}", name, repo=repository), device=device, mode=None)


def _repositories(name: str, device: str) -> Mapping[Any, Any] | None:
    """By mode; empty where there are none, None where this device's compute capability is not among those mapped."""
    device_repos = _mapping().get(name, {}).get(device)
    # Asked for the repos of a device that is not here, the mapping raises.
    if device_repos is None or not is_available(device):
        return {}
    found: Mapping[Any, Any] | None = device_repos.repos
    return found


def _mapping() -> Mapping[str, Mapping[str, Any]]:
    # Where the package was never imported nobody has registered anything.
    holder = getattr(sys.modules.get("kernels.layer.globals"), "_KERNEL_MAPPING", None)
    return {} if holder is None else holder.get()


def _functions_of_file(cls: type) -> Iterator[tuple[Slot, object]]:
    """Each name of the file that a class's forward was written in, as a slot, and what stood there originally."""
    file = getattr(cls.forward, "__globals__", {})  # type: ignore[attr-defined]
    place = file.get("__name__", "")
    for name, value in file.items():
        slot = Slot(name=f"{place}.{name}", kind=SlotKind.FUNCTION, target=f"{place}:{name}")
        yield slot, original_of(slot.target, value)
