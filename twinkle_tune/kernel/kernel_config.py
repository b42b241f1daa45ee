"""What a ``KernelConfig`` of transformers names, registered: kernels for layers, and one for neighbouring modules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from twinkle_tune.errors import RegistrationError
from twinkle_tune.kernel.planned import device_of, not_a_module
from twinkle_tune.kernel.registry import Registry, default_registry, make_candidate
from twinkle_tune.slot import Candidate, Source
from twinkle_tune.source.children import ChildrenSource
from twinkle_tune.source.hub import HubSource
from twinkle_tune.source.package import LocalRepoSource

_FORMS = (
    "'owner/name:Layer', or that with a dict of its version, revision and trust_remote_code, or one of these a device"
)
_KNOWN = frozenset({"version", "revision", "trust_remote_code"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A kernel for the layers of a name, which some classes are to be given first."""

    name: str
    classes: tuple[type[nn.Module], ...]
    candidate: Candidate


def register_kernel_config(
    model: nn.Module, kernel_config: Any, *, mode: object = None, registry: Registry | None = None
) -> None:
    """Register the kernels that a ``KernelConfig`` of transformers names, as contestants for a model's layers.

    The model is loaded without it: what transformers lays out anew while it loads a checkpoint is made here of the
    model's own weights, at each call (:mod:`twinkle_tune.source.layout`). A key is the name of a layer, by which its
    class asks for kernels, or else a class's own name; or a tuple of pairs of a class's name and a pattern of paths
    ("model.layers.*.mlp"), one for each of the neighbouring modules that one kernel stands for. In a pair the path
    decides, and the class's name is not looked at, as in transformers: it may be one ("MLP") that no class has. Such a
    kernel competes in all layers of the classes that hold these modules. Nothing is loaded now. All of it is registered
    or, on an error, nothing.

    Args:
        model: whose layers they are.
        kernel_config: the ``KernelConfig``, or its ``kernel_mapping``.
        mode: as of :func:`register_layer_kernel`.
        registry: where to register; the default registry if not given.

    Raises:
        ModelError: the model is none.
        RegistrationError: an entry is of another form, or the model has no such layer or modules.
        DeviceError, ModeError: an unknown device or mode.
    """
    if not isinstance(model, nn.Module):
        raise not_a_module(model)
    known = registry or default_registry
    mapping = getattr(kernel_config, "kernel_mapping", kernel_config)
    if not isinstance(mapping, Mapping):
        raise RegistrationError(
            f"kernel_config: got a {type(mapping).__name__}, expected a KernelConfig of transformers, or its mapping"
        )
    is_local = bool(getattr(kernel_config, "use_local_kernel", False))
    entries = [
        entry
        for key, value in mapping.items()
        for entry in _entries(model, key, _by_device(model, key, value), is_local, mode, known)
    ]
    for entry in entries:
        for cls in entry.classes:
            known.bind_external(cls, entry.name)
        known.add_layer(entry.name, entry.candidate)


def _entries(
    model: nn.Module, key: Any, by_device: Mapping[str, Any], is_local: bool, mode: object, known: Registry
) -> Iterator[_Entry]:
    is_fused = isinstance(key, tuple)
    children = _children(key) if is_fused else ()
    holders = _holders(model, key, children) if is_fused else _named(model, str(key), known)
    for device, value in by_device.items():
        source = _source(key, value, is_local)
        if is_fused:
            source = ChildrenSource(source=source, names=children)
        candidate = make_candidate(source, device=device, mode=mode)
        if not is_fused:
            yield _Entry(name=str(key), classes=holders, candidate=candidate)
            continue
        for cls in holders:
            name = known.kernel_name(cls)
            yield _Entry(name=name or cls.__name__, classes=() if name else (cls,), candidate=candidate)


def _by_device(model: nn.Module, key: Any, value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) and value else {device_of(model): value}


def _source(key: Any, value: Any, is_local: bool) -> Source:
    text, options = value if isinstance(value, tuple) and len(value) == 2 else (value, {})
    place, _, layer = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not place or not layer or not isinstance(options, Mapping) or not _KNOWN.issuperset(options):
        raise RegistrationError(f"kernel_config: {key!r:.80}: got {value!r:.120}, expected {_FORMS}")
    if is_local:
        return LocalRepoSource(repo_path=Path(place), name=layer)
    revision = options.get("revision")
    return HubSource(
        repo_id=place,
        name=layer,
        revision=revision,
        # As transformers reads it: the first version, where nobody says which.
        version=options.get("version", None if revision else 1),
        trusted=options.get("trust_remote_code", False) is True,
    )


def _named(model: nn.Module, name: str, known: Registry) -> tuple[type[nn.Module], ...]:
    """The classes that are to be given a name: those that are called so, where no class asks for kernels by it."""
    classes = dict.fromkeys(type(module) for module in model.modules())
    if any(known.kernel_name(cls) == name for cls in classes):
        return ()
    found = tuple(cls for cls in classes if cls.__name__ == name)
    if not found:
        raise RegistrationError(
            f"kernel_config: {name!r}: no layer of the model asks for kernels by this name, and no class is called so"
        )
    return found


def _children(key: tuple[Any, ...]) -> tuple[str, ...]:
    """The names of the modules that a key is for: its patterns' last parts."""
    patterns = [_pattern(key, item) for item in key]
    if len(patterns) < 2 or len({pattern.rpartition(".")[0] for pattern in patterns}) != 1:
        raise RegistrationError(
            f"kernel_config: {key!r:.200}: expected patterns of two modules or more of the same layer, such as "
            "'model.layers.*.norm' and 'model.layers.*.mlp'"
        )
    return tuple(pattern.rpartition(".")[2] for pattern in patterns)


def _pattern(key: Any, item: Any) -> str:
    if not (isinstance(item, tuple) and len(item) == 2 and all(isinstance(each, str) for each in item)):
        raise RegistrationError(
            f"kernel_config: {key!r:.200}: got {item!r:.80}, expected a class's name and a pattern of paths"
        )
    pattern: str = item[1]
    if "." not in pattern:
        raise RegistrationError(
            f"kernel_config: got the pattern {pattern!r:.80}, expected the path from the root, such as 'layers.*.mlp'"
        )
    return pattern


def _holders(model: nn.Module, key: tuple[Any, ...], children: tuple[str, ...]) -> tuple[type[nn.Module], ...]:
    """The classes of the layers that hold the modules of a key."""
    pattern = _pattern(key, key[0]).rpartition(".")[0]
    path = re.compile(re.escape(pattern).replace(r"\*", r"\w+"))
    found = {name: module for name, module in model.named_modules() if path.fullmatch(name)}
    if not found:
        raise RegistrationError(
            f"kernel_config: no module of the model is at {pattern!r}; write the path from its root"
        )
    for name, module in found.items():
        if missing := [child for child in children if module._modules.get(child) is None]:
            raise RegistrationError(
                f"kernel_config: {name} ({type(module).__name__}) has no module {missing[0]!r}, expected "
                f"{', '.join(children)}"
            )
    return tuple(dict.fromkeys(type(module) for module in found.values()))
