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

from twinkle_tune.device import DEVICES, is_available
from twinkle_tune.kernel.registry import choose_source, make_candidate
from twinkle_tune.mode import Mode
from twinkle_tune.slot import Candidate, Slot, SlotKind
from twinkle_tune.source.package import LocalRepoSource

_FALLBACK = frozenset({"FALLBACK"})
_INFERENCE, _TRAIN = frozenset({"INFERENCE"}), frozenset({"TRAINING"})
_COMPILED, _TRAIN_COMPILED = _INFERENCE | {"TORCH_COMPILE"}, _TRAIN | {"TORCH_COMPILE"}
_MAY_RUN_IN = {
    Mode.INFERENCE: (_INFERENCE, _COMPILED, _TRAIN, _TRAIN_COMPILED, _FALLBACK),
    Mode.TRAIN: (_TRAIN, _TRAIN_COMPILED, _FALLBACK),
    Mode.COMPILE: (_COMPILED, _TRAIN_COMPILED, _FALLBACK),
    Mode.TRAIN_COMPILE: (_TRAIN_COMPILED, _FALLBACK),
}
"""Flags of the modes that a kernel may be mapped for to run in a mode, the closest first: the rule of ``kernels``."""


def mapped_name(module: nn.Module) -> str | None:
    """The kernel name of a module that the mapping has kernels for; None if it has none, or a condition forbids it."""
    name = getattr(type(module), "kernel_layer_name", None)
    condition = getattr(type(module), "kernel_condition", None)
    if name is None or not _is_mapped(str(name)) or (condition is not None and not condition(module)):
        return None
    return str(name)


def mapped_functions(model: nn.Module) -> Iterator[Slot]:
    """Functions that classes of the model take kernels for (``use_kernelized_func``) and that the mapping has some for.

    The slot is where the code of the class looks the function up: a name of the file that it was written in.
    """
    for module in model.modules():
        for function in vars(module).get("_kernel_funcs", {}).values():
            if _is_mapped(str(kernel_name_of(function))):
                file = getattr(type(module).forward, "__globals__", {})
                yield from (_function_slot(file, name) for name, value in file.items() if value is function)


def kernel_name_of(function: object) -> str | None:
    """The kernel name of a function that ``kernels`` made replaceable; None of any other."""
    name = getattr(type(function), "kernel_layer_name", None)
    return None if name is None else str(name)


def mapped(name: str, device: str, mode: Mode) -> tuple[Candidate, ...]:
    """The kernels that the mapping has for a name, on this device and for a mode that may run in ``mode``."""
    device_repos = _mapping().get(name, {}).get(device)
    # Asked for the repos of a device that is not here, the mapping raises.
    if device_repos is None or not is_available(device):
        return ()
    by_flags = {_flags(found): repository for found, repository in (device_repos.repos or {}).items()}
    found: list[Candidate] = []
    for flags in _MAY_RUN_IN[mode]:
        if flags in by_flags:
            add_under_own_name(found, _candidate(name, by_flags[flags], device))
    return tuple(found)


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


def _is_mapped(name: str) -> bool:
    return any(is_available(device) for device in _mapping().get(name, {}) if device in DEVICES)


def _mapping() -> Mapping[str, Mapping[str, Any]]:
    # Where the package was never imported nobody has registered anything.
    holder = getattr(sys.modules.get("kernels.layer.globals"), "_KERNEL_MAPPING", None)
    return {} if holder is None else holder.get()


def _flags(mode: Any) -> frozenset[str]:
    return frozenset(flag.name for flag in mode)


def _function_slot(file: Mapping[str, Any], name: str) -> Slot:
    place = file.get("__name__", "")
    return Slot(name=f"{place}.{name}", kind=SlotKind.FUNCTION, target=f"{place}:{name}")
