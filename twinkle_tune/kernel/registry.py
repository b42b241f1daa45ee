"""What users registered: an ordinary object. The module-level functions of this room use :data:`default_registry`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from twinkle_tune.device import parse_registered_device
from twinkle_tune.errors import RegistrationError
from twinkle_tune.graph.pattern import Pattern
from twinkle_tune.kernel.repository import LayerRepository
from twinkle_tune.mode import parse_registered_mode, serves_alone
from twinkle_tune.slot import ORIGINAL, Candidate, Source
from twinkle_tune.source.children import ChildrenSource
from twinkle_tune.source.direct import ImplSource, Repo, RepoSource
from twinkle_tune.source.hub import HubSource, source_of_repository
from twinkle_tune.source.package import LocalRepoSource, PackageSource

_MARK = "kernel_layer_name"
"""The attribute of a class by which the ``kernels`` package finds its layers."""
_NO_MARK = object()


class Registry:
    """Candidates by slot, and the classes that external layers were bound to.

    Registering adds a contestant; the one registered last is what :func:`kernelize_model` applies without a
    profile.

    Attributes:
        marks_classes: whether a class that is bound to a kernel name carries it as ``kernel_layer_name`` until
            :meth:`clear`, by which ``kernels.kernelize`` finds it. So it is in the default registry alone: an attribute
            of a class is everybody's.
    """

    def __init__(self, *, marks_classes: bool = False) -> None:
        self.marks_classes = marks_classes
        self._before: dict[type[nn.Module], object] = {}
        self._layers: dict[str, list[Candidate]] = {}
        self._functions: dict[tuple[str, str], list[Candidate]] = {}
        self._external: dict[type[nn.Module], str] = {}
        self._patterns: dict[str, Pattern] = {}
        self._pattern_kernels: dict[str, list[Candidate]] = {}

    def add_pattern(self, pattern: Pattern, candidate: Candidate) -> None:
        """Add a candidate for the places of a pattern, by its name.

        Raises:
            RegistrationError: another pattern has that name.
        """
        known = self._patterns.setdefault(pattern.name, pattern)
        if type(known.traced.module) is not type(pattern.traced.module):
            raise RegistrationError(
                f"pattern {pattern.name!r}: it is {type(known.traced.module).__qualname__} already, got "
                f"{type(pattern.traced.module).__qualname__}; give the second one another name"
            )
        _add(self._pattern_kernels.setdefault(pattern.name, []), candidate)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """What was registered with kernels of its own, in that order."""
        return tuple(self._patterns.values())

    def pattern(self, name: str) -> tuple[Candidate, ...]:
        """Candidates of a pattern, in the order of registration."""
        return tuple(self._pattern_kernels.get(name, ()))

    def add_layer(self, kernel_name: str, candidate: Candidate) -> None:
        """Add a candidate for the layers named ``kernel_name``."""
        _add(self._layers.setdefault(kernel_name, []), candidate)

    def add_function(self, target_module: str, func_name: str, candidate: Candidate) -> None:
        """Add a candidate for the function ``target_module.func_name`` ("Class.method" for a method)."""
        _add(self._functions.setdefault((target_module, func_name), []), candidate)

    def bind_external(self, layer_class: type[nn.Module], kernel_name: str) -> None:
        """Name the kernels that instances of a class take.

        Raises:
            RegistrationError: it is no module class, or it is bound to another name.
        """
        if not (isinstance(layer_class, type) and issubclass(layer_class, nn.Module)):
            raise RegistrationError(
                f"layer_class: got {layer_class!r:.80}, expected an nn.Module class; pass the class, not an instance"
            )
        bound = self._external.get(layer_class)
        if bound not in (None, kernel_name):
            raise RegistrationError(
                f"{layer_class.__qualname__} is bound to the kernel name {bound!r}, got {kernel_name!r}; "
                "register the kernel under the first name to add a contestant"
            )
        self._external[layer_class] = kernel_name
        if self.marks_classes and layer_class not in self._before:
            self._before[layer_class] = vars(layer_class).get(_MARK, _NO_MARK)
            setattr(layer_class, _MARK, kernel_name)

    def layer(self, kernel_name: str) -> tuple[Candidate, ...]:
        """Candidates of a layer name, in the order of registration."""
        return tuple(self._layers.get(kernel_name, ()))

    def function(self, target_module: str, func_name: str) -> tuple[Candidate, ...]:
        """Candidates of a function, in the order of registration."""
        return tuple(self._functions.get((target_module, func_name), ()))

    @property
    def free_layers(self) -> frozenset[str]:
        """Names with candidates that no class was bound to: layers of that name in the catalog may take them."""
        return frozenset(self._layers) - frozenset(self._external.values())

    @property
    def functions(self) -> tuple[tuple[str, str], ...]:
        """(module, function) of every function with candidates."""
        return tuple(self._functions)

    def kernel_name(self, layer_class: type[nn.Module]) -> str | None:
        """The kernel name of a class: bound with ``register_external_layer``, or its ``kernel_layer_name``.

        A subclass has its parent's name only as long as it has its parent's forward too: another forward may
        compute something else.
        """
        for parent in layer_class.__mro__:
            name = self._external.get(parent, vars(parent).get(_MARK))
            if name is not None:
                return str(name) if layer_class.forward is parent.forward else None  # type: ignore[attr-defined]
        return None

    def clear(self) -> None:
        """Forget everything that was registered. What is bound to models stays bound."""
        for layer_class, before in self._before.items():
            if vars(layer_class).get(_MARK) != self._external.get(layer_class):
                continue  # somebody else named it since
            if before is _NO_MARK:
                delattr(layer_class, _MARK)
            else:
                setattr(layer_class, _MARK, before)
        tables = (self._layers, self._functions, self._external, self._before, self._patterns, self._pattern_kernels)
        for table in tables:
            table.clear()


default_registry = Registry(marks_classes=True)


def make_candidate(source: Source, *, device: object, mode: object) -> Candidate:
    """A candidate named after its source.

    Raises:
        DeviceError, ModeError: as their parsers.
    """
    registered = parse_registered_mode(mode)
    kind, capabilities = (None, None) if device is None else parse_registered_device(device)
    return Candidate(
        name=_name(source),
        source=source,
        device=kind,
        modes=frozenset() if registered is None else frozenset({registered}),
        alone=serves_alone(mode),
        capabilities=capabilities,
    )


def choose_source(
    what: str,
    name: str,
    *,
    impl: Callable[..., Any] | None = None,
    repo: Repo | None = None,
    repo_path: str | Path | None = None,
    package_name: str | None = None,
    repo_id: str | None = None,
    revision: str | None = None,
    version: int | str | None = None,
) -> Source:
    """The one source that registration arguments speak of.

    Raises:
        RegistrationError: none or several sources are given, or arguments of another source.
    """
    given = {"impl": impl, "repo": repo, "repo_path": repo_path, "repo_id": repo_id}
    named = [key for key, value in given.items() if value is not None]
    if len(named) != 1:
        raise RegistrationError(
            f"{what}: got {' and '.join(named) or 'no source'}, expected exactly one of an implementation, "
            "a repo object, repo_path or repo_id"
        )
    if repo_id is None and (revision is not None or version is not None):
        raise RegistrationError(f"{what}: revision and version belong to repo_id, got {named[0]}; drop them")
    if repo_path is None and package_name is not None:
        raise RegistrationError(f"{what}: package_name belongs to repo_path, got {named[0]}; drop it")
    if impl is not None:
        return ImplSource(impl=impl)
    if isinstance(repo, LayerRepository):
        return repo.source
    if repo is not None:
        # A repository object of the kernels package is loaded as any Hub repo: at a commit, checked, trusted or not.
        return source_of_repository(repo) or RepoSource(repo=repo)
    if repo_id is not None:
        return HubSource(repo_id=repo_id, name=name, revision=revision, version=version)
    if package_name is None:
        return LocalRepoSource(repo_path=Path(str(repo_path)), name=name)
    return PackageSource(repo_path=Path(str(repo_path)), package_name=package_name, name=name)


def _add(candidates: list[Candidate], candidate: Candidate) -> None:
    for known in [known for known in candidates if replace(known, name=candidate.name) == candidate]:
        candidates.remove(known)
    sources = {c.name: c.source for c in candidates}
    name, number = candidate.name, 1
    while name == ORIGINAL or (name in sources and sources[name] != candidate.source):
        number += 1
        name = f"{candidate.name}#{number}"
    candidates.append(replace(candidate, name=name))


def _name(source: Source) -> str:
    match source:
        case ImplSource():
            return f"{source.kind}:{getattr(source.impl, '__qualname__', type(source.impl).__qualname__)}"
        case ChildrenSource():
            return f"{_name(source.source)}({'+'.join(source.names)})"
        case RepoSource():
            return f"repo:{type(source.repo).__qualname__}"
        case HubSource():
            pin = source.revision if source.version is None else str(source.version)
            pin = f"v{pin}" if source.version is not None and str(pin)[0].isdigit() else pin
            return f"hub:{source.repo_id}:{source.name}" + ("" if pin is None else f"@{pin}")
        case PackageSource():
            return f"local:{source.package_name}.{source.name}"
        case LocalRepoSource():
            return f"local:{source.repo_path.name}:{source.name}"
    return source.kind
