"""A contest as bytes for our own worker process, and back.

Pickle runs code when it is read: what is written here is read by the worker process that this run has started, from a
file without a name that only the two of them have open. Nothing of it is ever read from elsewhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FunctionType, ModuleType
from typing import IO, Any

import torch
from torch import nn

from twinkle_tune.capture.capture import Observation
from twinkle_tune.device import cuda_in_use
from twinkle_tune.errors import SourceError, TuneError
from twinkle_tune.kernel.find import contestants
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.ops.op import OpCall
from twinkle_tune.ops.space import Config
from twinkle_tune.slot import Candidate, Implementation, Slot
from twinkle_tune.source.direct import OriginalSource
from twinkle_tune.source.hub import commit_of
from twinkle_tune.source.tried import config_of, configured
from twinkle_tune.tune.placed import place, placed
from twinkle_tune.tune.shared import set_settings, settings_to_send
from twinkle_tune.tune.task import Task
from twinkle_tune.tune.tuned import Tunable
from twinkle_tune.workload import Workload

_BY_NAME = frozenset({"torch", "liger", "triton", "compile"})
"""Kinds of built-in candidates: the worker has the same catalog and finds them there by name."""


class Unportable(TuneError):
    """A contest cannot be run in another process: something of it exists in this one alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a worker must know before it can read a package: text and numbers only.

    Attributes:
        path: Python's module search path.
        files: modules that are found on no path, by name, with the file that each came from.
        original: digest of the original's code.
    """

    path: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    original: str


def pack(task: Task, file: IO[bytes]) -> Header:
    """Write a task to a file from its beginning; without its block where that is known to this process alone.

    Raises:
        Unportable: a part of it is known to this process alone (a lambda, a class of ``__main__`` or of a notebook).
        OSError: the file cannot be written (a full disk).
    """
    try:
        return _pack(task, file)
    except Unportable as why:
        if task.observation.block is None:
            raise
        alone = replace(task.observation, block=None, why_alone=f"the part of the model around it: {why}")
        return _pack(replace(task, observation=alone), file)


def _pack(task: Task, file: IO[bytes]) -> Header:
    modules: set[str] = set()
    portable = _pickling(modules)
    observation = task.observation
    _check_module(observation.slot.target.partition(":")[0], modules)
    package = {
        "task": replace(task, candidates=(), deadline_s=None),
        "candidates": [_candidate_data(c, portable) for c in task.candidates],
        "settings": settings_to_send(),
        "placed": placed(observation),
        "cuda": torch.cuda.current_device() if cuda_in_use() else None,
    }
    file.seek(0)
    file.truncate()
    try:
        torch.save(package, file, pickle_module=portable)
    except OSError:
        raise
    except Exception as error:  # an object's own way of being pickled may raise anything
        raise _unportable(observation.slot.target, error) from error
    file.flush()
    return Header(
        path=tuple(sys.path),
        files=tuple(sorted(_files(modules).items())),
        original=original_digest(observation.occurrence),
    )


def modules_of(observation: Observation) -> tuple[str, ...]:
    """Modules of torch and transformers that whoever reads an observation must import, which takes seconds.

    No others: code of the user's runs where somebody looks.
    """
    parts = () if observation.module is None else observation.module.modules()
    names = {type(part).__module__ for part in parts} | {observation.slot.target.partition(":")[0]}
    return tuple(sorted(name for name in names if name.partition(".")[0] in ("torch", "transformers")))


def original_digest(occurrence: Occurrence) -> str:
    """Digest of the original's code, "" where it has none: both processes must have the same."""
    try:
        return OriginalSource().digest(occurrence.slot, occurrence.original)
    except TuneError:
        return ""


def load_files(files: Any) -> None:
    """Import modules from their files, unless they are there."""
    for name, path in files:
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise SourceError(f"{path}: cannot be imported as Python in the worker process; check the file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def unpack(file: IO[bytes], *, is_elsewhere: bool = False) -> Task:
    """Read what our own run has written. Candidates are read when they are loaded: that runs their modules' code.

    The flags of the process are set as the task's. ``is_elsewhere``: on another machine, whose device is the first one
    that this process sees.
    """
    file.seek(0)
    package = torch.load(file, weights_only=False, map_location=_to_the_first if is_elsewhere else None)
    if package["cuda"] is not None and not is_elsewhere:
        torch.cuda.set_device(package["cuda"])
    set_settings(package["settings"])
    task: Task = package["task"]
    observation = task.observation
    place(observation, package["placed"])
    built_in = contestants(observation.occurrence, task.terms.device, task.terms.mode, Registry())
    known = {candidate.name: candidate for candidate in built_in}
    candidates = []
    for name, kind, data, is_tunable, config in package["candidates"]:
        if data is not None:
            packed = PackedTunable if is_tunable else PackedSource
            candidates.append(Candidate(name=name, source=packed(kind=kind, data=data)))
        elif name in known:
            candidates.append(replace(known[name], source=configured(known[name].source, config)))
        else:
            raise Unportable(f"the worker process does not know the built-in candidate {name}")
    return replace(task, candidates=tuple(candidates))


def _to_the_first(storage: Any, location: str) -> Any:
    there = "cuda:0" if location.startswith("cuda") else location
    return torch.serialization.default_restore_location(storage, there)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSource:
    """A source that is unpickled when it is loaded, so that its module's code runs as the candidate's."""

    kind: str
    data: bytes

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """As the source that it stands for."""
        return self._source().load(slot, original)  # type: ignore[no-any-return]

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """As the source that it stands for."""
        return self._source().digest(slot, original)  # type: ignore[no-any-return]

    def commit(self) -> str:
        """As the source that it stands for."""
        return commit_of(self._source())

    def _source(self) -> Any:
        return pickle.loads(self.data)


class PackedTunable(PackedSource):
    """A tunable source that is unpickled when it is used."""

    @property
    def config(self) -> Config | None:
        """As of the source that it stands for."""
        return self._source().config  # type: ignore[no-any-return]

    def with_config(self, config: Config) -> Any:
        """The source that it stands for, with a config."""
        return self._source().with_config(config)

    def op_call(self, workload: Workload) -> OpCall | None:
        """As the source that it stands for."""
        return self._source().op_call(workload)  # type: ignore[no-any-return]


def _candidate_data(candidate: Candidate, portable: ModuleType) -> tuple[Any, ...]:
    source = candidate.source
    config = config_of(source)
    plain = None if config is None else dict(config)
    return candidate.name, source.kind, _candidate_bytes(candidate, portable), isinstance(source, Tunable), plain


def _candidate_bytes(candidate: Candidate, portable: ModuleType) -> bytes | None:
    if candidate.source.kind in _BY_NAME:
        return None
    buffer = io.BytesIO()
    try:
        portable.Pickler(buffer, protocol=4).dump(candidate.source)
    except Exception as error:  # an object's own way of being pickled may raise anything
        raise _unportable(candidate.name, error) from error
    return buffer.getvalue()


def _unportable(what: str, error: Exception) -> Unportable:
    if isinstance(error, Unportable):
        return error
    return Unportable(f"{what} cannot be sent to another process ({type(error).__name__}: {error!s:.120})")


def _pickling(modules: set[str]) -> ModuleType:
    """What ``torch.save`` takes for the pickle module, with a pickler that writes down whose code is needed."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, obj: object) -> Any:
            if isinstance(obj, (type, FunctionType)):
                _check_module(obj.__module__, modules)
            if isinstance(obj, nn.Module) and "<locals>" in type(obj).__qualname__ and (found := _hanging(obj)):
                _check_module(found[0], modules)
                return find_attribute, found
            return NotImplemented

    made = ModuleType("twinkle_tune_pickling")
    made.__dict__["Pickler"] = Pickler
    return made


def _hanging(function: nn.Module) -> tuple[str, str] | None:
    """Module and name of a function that a decorator made an nn.Module of, which hangs in the function's own place.

    transformers' layers keep such ones (the ``kernels`` package makes them), and their classes have no name.
    """
    for cell in getattr(type(function).forward, "__closure__", None) or ():
        inner = cell.cell_contents
        place = (getattr(inner, "__module__", ""), getattr(inner, "__qualname__", ""))
        if isinstance(inner, FunctionType) and getattr(sys.modules.get(place[0]), place[1], None) is function:
            return place
    return None


def find_attribute(module: str, name: str) -> Any:
    """What hangs in a module under a name, in the process that reads a package."""
    return getattr(importlib.import_module(module), name)


def _check_module(name: str, modules: set[str]) -> None:
    if name in ("__main__", "__mp_main__"):
        raise Unportable("code of the main program or of a notebook cannot be sent to another process")
    modules.add(name)


def _files(modules: set[str]) -> dict[str, str]:
    """The modules that another process would not find by name, with their files."""
    found = {}
    for name in modules:
        root = name.partition(".")[0]
        if root in sys.builtin_module_names or any(_finds(finder, root) for finder in sys.meta_path):
            continue
        path = getattr(sys.modules.get(name), "__file__", None)
        if path is None or "." in name:
            raise Unportable(f"the module {name} cannot be imported by name in another process")
        found[name] = str(path)
    return found


def _finds(finder: Any, name: str) -> bool:
    find_spec = getattr(finder, "find_spec", None)
    return find_spec is not None and find_spec(name, None) is not None
