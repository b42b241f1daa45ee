"""One call of a model as a device graph: captured where it was shown that it may be, and replayed."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.call.arguments import map_tensors
from twinkle_tune.call.device_graph import DeviceGraphError, captured
from twinkle_tune.strategy.held import Held, memory_of

_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size)


@dataclass(slots=True)
class Parted:
    """A call's arguments, apart.

    Attributes:
        args, kwargs: as they are given.
        tensors: in tuples, lists and dictionaries as well, in their order.
        objects: all else that is no plain value: caches.
        form: what calls have in common that one graph may serve, if their objects are the same.
        why_not: why none may; "" where one may.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: list[Tensor] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)
    form: tuple[Any, ...] = ()
    why_not: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """The form, and which objects."""
        return (*self.form, *map(id, self.objects))


def parted(args: tuple[Any, ...], kwargs: Mapping[str, Any], device: torch.device) -> Parted:
    """Look at a call's arguments; a graph takes tensors of one device alone."""
    found = Parted(args, kwargs)
    form: list[Any] = []

    def look(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            if type(value) not in (Tensor, torch.nn.Parameter) or value.layout is not torch.strided:
                found.why_not = f"{name} is no plain tensor (a {type(value).__name__})"
            elif value.device != device:
                found.why_not = (
                    f"{name} is on {value.device}, and a graph of {device} reads it once, when it is captured"
                )
            found.tensors.append(value)
            form.append((name, value.shape, value.dtype))
        elif isinstance(value, (tuple, list, dict)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            form.append((name, type(value), len(value)))
            for key, item in items:
                look(f"{name}[{key!r}]", item)
        elif isinstance(value, _PLAIN):
            form.append((name, type(value), value))
        else:
            if not type(value).__weakrefoffset__:
                found.why_not = f"{name} (a {type(value).__name__}) does not tell when it is gone"
            found.objects.append(value)
            form.append((name, type(value)))

    for index, value in enumerate(args):
        look(f"argument {index}", value)
    for name, value in kwargs.items():
        look(name, value)
    found.form = (*form, _state())
    return found


def _state() -> tuple[object, ...]:
    """What of the process decides what is computed, and is the same in every replay."""
    return (
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cuda"),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.get_default_dtype(),
    )


class Watched:
    """A call of the original, watched: whether a replay could do what it does."""

    def __init__(self, run: Callable[..., Any], model: Held, call: Parted, device: torch.device) -> None:
        """Make the call.

        Attributes:
            answer: the original's.
            before: what the call's objects held before it, tensors as copies.
            why_not: why no replay could; "" where one could.
            moved: whether an object holds other memory, or another number, after the call. A cache that stays does at
                its first call alone.
        """
        objects = Held(*call.objects)
        self.before = [(tensor, tensor.clone()) for tensor in objects.tensors]
        weights, drawn, given = model.versions(), _drawn(device), _versions(call.tensors)
        self.answer = run(*call.args, **call.kwargs)
        self.why_not = ""
        if not (model.is_whole and objects.is_whole):
            self.why_not = "the model holds too much for a call of it to be looked after"
        elif not all(map(torch.equal, drawn, _drawn(device))):
            self.why_not = "it draws random numbers"
        elif weights != model.versions():
            self.why_not = "it writes into the model's weights or buffers"
        elif given != _versions(call.tensors):
            self.why_not = "it writes into a tensor that it is given"
        elif not model.is_same():
            self.why_not = "it notes something in the model in Python, which a replay would not"
        self.moved = not objects.is_same()


class Graphed:
    """A call of a model, captured. Its arguments are copied into memory of its own, and its answer out of it.

    The answers are the caller's: no later call writes into them. Calls from several threads, or on several streams,
    come one after the other.

    Attributes:
        held_bytes: of the device's memory, as long as this is kept.
    """

    def __init__(
        self, run: Callable[..., Any], model: Held, call: Parted, device: torch.device, before: Sequence[Any]
    ) -> None:
        """Capture it.

        Args:
            run: the original, of the model.
            model: what the model holds.
            call: with the arguments; what they hold is as it was before the call.
            device: of it.
            before: tensors of the call's objects, each with a copy: the warm calls write into them.

        Raises:
            DeviceGraphError: it cannot be captured. What the objects hold is as it was.
        """
        with torch.inference_mode(False):
            self._inputs = [tensor.detach().clone() for tensor in call.tensors]
        own = iter(self._inputs)
        args, kwargs = map_tensors(lambda _: next(own), (call.args, dict(call.kwargs)))
        self._objects, self._device, self._lock = Held(*call.objects), device, Lock()
        answer: list[Any] = []

        def work() -> None:
            answer[:] = [run(*args, **kwargs)]

        def warm() -> None:
            put_back(before)
            run(*args, **kwargs)

        try:
            with _no_kept_casts():
                self._graph, pool_bytes = captured(device, work, warm, alone=False)
        finally:
            put_back(before)
        if not (self._objects.is_same() and model.is_same()):
            raise DeviceGraphError("it does otherwise at a later call: a replay would not")
        self._outputs = _outputs(answer[0], self._objects)
        read = {memory_of(tensor) for tensor in (*self._inputs, *model.tensors, *self._objects.tensors)}
        if any(memory_of(tensor) in read for tensor in self._outputs if tensor.numel()):
            raise DeviceGraphError("its answer is, or is a view of, what it was given or a weight")
        # What was given must be gone when the caller lets go of it: in the answer a mark stands for it.
        self._marks = [_Mark() for _ in call.objects]
        same = {id(tensor): tensor for tensor in (*self._outputs, *self._objects.tensors)}
        marked = {id(each): mark for each, mark in zip(call.objects, self._marks, strict=True)}
        self._answer = copy.deepcopy(answer[0], {**same, **marked})
        self._known = [weakref.ref(each) for each in call.objects]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.held_bytes = pool_bytes + sum(tensor.nbytes for tensor in self._inputs)

    def is_for(self, call: Parted) -> bool:
        """Whether the objects of a call of the same key are those that it was captured with, in the same memory."""
        known = [ref() for ref in self._known]
        return all(map(lambda one, other: one is other, known, call.objects)) and self._objects.is_same()

    def __call__(self, call: Parted) -> Any:
        """The answer."""
        with self._lock:
            self._done.wait(torch.cuda.current_stream(self._device))
            for own, tensor in zip(self._inputs, call.tensors, strict=True):
                own.copy_(tensor)
            self._graph.replay()
            made = {id(tensor): tensor.clone() for tensor in self._outputs}
            self._done.record(torch.cuda.current_stream(self._device))
        same = {id(tensor): tensor for tensor in self._objects.tensors}
        given = {id(mark): each for mark, each in zip(self._marks, call.objects, strict=True)}
        return copy.deepcopy(self._answer, {**same, **given, **made})


def put_back(before: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Let tensors hold again what their copies do."""
    for tensor, content in before:
        tensor.copy_(content)


class _Mark:
    """Stands for an object that a call was given."""


def _outputs(answer: Any, objects: Held) -> list[Tensor]:
    """The tensors of an answer, but those that stand in what was given."""
    known = {id(tensor) for tensor in objects.tensors}
    return [tensor for tensor in Held(answer).tensors if id(tensor) not in known]


def _versions(tensors: Sequence[Tensor]) -> list[int | None]:
    return [None if tensor.is_inference() else tensor._version for tensor in tensors]


def _drawn(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), torch.cuda.get_rng_state(device)]


@contextmanager
def _no_kept_casts() -> Iterator[None]:
    """While this is open autocast keeps no casts of weights: a replay would read them when they are gone."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
