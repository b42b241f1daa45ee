"""Running a model without a trace: what a run changes of it, and of all that it reaches, is put back."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import ref

import torch
from torch import Tensor, nn

from twinkle_tune.call.bits import is_plain, parts_of, put_into, same_memory
from twinkle_tune.capture.point import unwrapped
from twinkle_tune.capture.reach import Reach, Saved

_LARGE_BYTES = 1 << 24
"""Tensors up to this size are copied whatever room there is."""
_ROOM_SHARE = 0.25
"""Of the free memory, that copies of the others may take."""


@dataclass(slots=True, eq=False)
class _Held:
    """A tensor as it was: its memory, which ``.data = ...`` would exchange, and a copy of what stood there.

    ``copies`` is None for a tensor without a copy; then ``sums`` tells whether it is another now.
    """

    tensor: Tensor
    memory: Tensor | None
    requires_grad: bool
    parts: tuple[Tensor, ...]
    copies: tuple[Tensor, ...] | None
    sums: tuple[int, ...] = ()

    def is_changed(self) -> bool:
        if self._is_elsewhere or (self.tensor.is_leaf and self.tensor.requires_grad != self.requires_grad):
            return True
        if self.copies is None:
            return tuple(map(_sum, self.parts)) != self.sums
        return not all(same_memory(part, copy) for part, copy in zip(self.parts, self.copies, strict=True))

    def put_back(self) -> None:
        if self.memory is not None and self._is_elsewhere:
            self.tensor.data = self.memory
        if self.tensor.is_leaf and self.tensor.requires_grad != self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        if self.copies is None:
            if tuple(map(_sum, self.parts)) != self.sums:
                warnings.warn(
                    f"a run wrote into a tensor of shape {list(self.tensor.shape)}, and there was no room for a copy "
                    "to put it back from; load the model again, or free memory for a copy of its weights",
                    stacklevel=2,
                )
            return
        for part, copy in zip(self.parts, self.copies, strict=True):
            if not same_memory(part, copy):
                put_into(part, copy)

    @property
    def _is_elsewhere(self) -> bool:
        then, now = self.memory, self.tensor
        return then is not None and (then.data_ptr(), then.shape, then.dtype) != (now.data_ptr(), now.shape, now.dtype)


@dataclass(slots=True)
class _Copies:
    """Copies that are there already: of the models around whose tuning :func:`left_as_found` is open."""

    by_tensor: dict[int, _Held] = field(default_factory=dict)


_open: list[_Copies] = []
_writes: list[dict[str, Tensor]] = []


@contextmanager
def writes_noted() -> Iterator[dict[str, Tensor]]:
    """While this is open all of the model is compared around each of its runs, and what a run wrote is noted.

    Gives copies of the tensors as they were written, by their paths in the model.
    """
    noted: dict[str, Tensor] = {}
    _writes.append(noted)
    try:
        yield noted
    finally:
        _writes.remove(noted)


class Untouched:
    """Keeps a model as it is over many runs, at a small cost for each.

    The first run of a model, and the first after a train flag changed, compares everything that the model reaches and
    learns what a run changes (the running statistics of a batch norm, a table that grows, a counter); later runs look
    after that alone.
    """

    def __init__(self, *, gradients: bool) -> None:
        self._gradients = gradients
        self._model: ref[nn.Module] | None = None
        self._modules: tuple[nn.Module, ...] = ()
        self._flags: list[bool] = []
        self._saved: list[Saved] | None = None
        self._written: list[Tensor] = []
        self._leaves: list[Tensor] = []

    @contextmanager
    def around(self, model: nn.Module) -> Iterator[None]:
        """While this is open no parameter has a ``.grad``, nor hooks on it; afterwards each has what it had."""
        if self._model is None or self._model() is not model:
            self._model, self._modules, self._saved = ref(model), tuple(model.modules()), None
        flags = [module.training for module in self._modules]
        if flags != self._flags:
            self._flags, self._saved = flags, None
        if self._saved is None or _writes:
            reach = Reach(model)
            saved, tensors = reach.saved, list(reach.tensors.values())
            self._leaves = [t for t in tensors if t.is_leaf and t.requires_grad] if self._gradients else []
        else:
            saved, tensors = [each.anew() for each in self._saved], self._written
        held = _held(tensors)
        if _writes:  # what was written before is no doing of this run
            _put_back([], [each for each in held if each.is_changed()])
        with _without_gradients(self._leaves):
            is_whole = False
            try:
                yield
                is_whole = True
            finally:
                changed = [each for each in saved if each.is_changed()]
                written = [each for each in held if each.is_changed()]
                if written and _writes:
                    _writes[-1].update(_by_path(model, [each.tensor for each in written]))
                _put_back(changed, written)
                if self._saved is None and is_whole:  # a run that raised has not shown all that it changes
                    self._saved, self._written = changed, [each.tensor for each in written]


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, the model and all that it reaches are afterwards as they were, bit by bit.

    Weights, buffers, plain attributes, gradients, the generators that it holds. Hooks that get finished gradients (an
    optimizer that steps in the backward) do not run meanwhile. A tensor of more than 16 MiB for which
    there is no room to be copied is not put back where a run writes into it; a warning says so.
    """
    inner = unwrapped(model)
    reach = Reach(inner)
    tensors = list(reach.tensors.values())
    copies = _Copies()
    held = _held(tensors)
    copies.by_tensor.update((id(each.tensor), each) for each in held)
    _open.append(copies)
    leaves = [tensor for tensor in tensors if tensor.is_leaf and tensor.requires_grad]
    grads = [(leaf, leaf.grad) for leaf in leaves]
    try:
        with hooks_aside(leaves):
            yield
    finally:
        _open.remove(copies)
        _put_back([each for each in reach.saved if each.is_changed()], [each for each in held if each.is_changed()])
        for leaf, grad in grads:
            if leaf.grad is not grad:
                leaf.grad = grad


@contextmanager
def hooks_aside(leaves: Iterable[Tensor]) -> Iterator[None]:
    """While this is open no hook of these tensors runs that gets the finished gradient: it may step an optimizer.

    Those that make the gradient what it is (``register_hook``) are part of what is computed, and run.
    """
    aside = [(tensor, hooks) for tensor in leaves if (hooks := tensor._post_accumulate_grad_hooks)]
    try:
        for tensor, _ in aside:
            tensor._post_accumulate_grad_hooks = OrderedDict()  # of None torch takes no notice
        yield
    finally:
        for tensor, hooks in aside:
            tensor._post_accumulate_grad_hooks = hooks


@contextmanager
def _without_gradients(leaves: list[Tensor]) -> Iterator[None]:
    grads = [(leaf, leaf.grad) for leaf in leaves]
    with hooks_aside(leaves):
        try:
            for leaf in leaves:
                leaf.grad = None
            yield
        finally:
            for leaf, grad in grads:
                leaf.grad = grad


def _by_path(model: nn.Module, tensors: Iterable[Tensor]) -> Iterator[tuple[str, Tensor]]:
    inner = unwrapped(model)
    named = (*inner.named_parameters(remove_duplicate=False), *inner.named_buffers(remove_duplicate=False))
    paths = {id(tensor): path for path, tensor in reversed(named)}
    for index, tensor in enumerate(tensors):
        yield paths.get(id(tensor), f"tensor {index}, of shape {list(tensor.shape)}"), _copied(tensor.detach(), None)


def _put_back(saved: Iterable[Saved], held: list[_Held]) -> None:
    for each in saved:
        each.put_back()
    for tensor in held:
        tensor.put_back()
    if held and torch.is_autocast_enabled():
        torch.clear_autocast_cache()  # it may hold casts of what was written in between


def _held(tensors: list[Tensor]) -> list[_Held]:
    """The tensors as they are, with copies as far as there is room; none is copied twice."""
    known = {key: each for copies in _open for key, each in copies.by_tensor.items()}
    fresh = [tensor for tensor in tensors if id(tensor) not in known]
    found = [known[id(tensor)] for tensor in tensors if id(tensor) in known]
    parts = {id(tensor): tuple(parts_of(tensor)) for tensor in fresh}
    sizes: dict[torch.device, int] = defaultdict(int)
    for part in (part for each in parts.values() for part in each):
        if part.nbytes > _LARGE_BYTES:
            sizes[part.device] += part.nbytes
    places = {device: _place_for(size, device) for device, size in sizes.items()}
    for tensor in fresh:
        own = parts[id(tensor)]
        is_large = any(part.nbytes > _LARGE_BYTES for part in own)
        place = places[own[0].device] if is_large else None
        copies = None if is_large and place is None else tuple(_copied(part, place) for part in own)
        found.append(
            _Held(
                tensor=tensor,
                memory=own[0] if len(own) == 1 and own[0].shape == tensor.shape and is_plain(tensor) else None,
                requires_grad=tensor.requires_grad,
                parts=own,
                copies=copies,
                sums=tuple(map(_sum, own)) if copies is None else (),
            )
        )
    return found


def _copied(part: Tensor, place: torch.device | None) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return part.clone() if place is None or place == part.device else part.to(place, copy=True)


def _place_for(size: int, device: torch.device) -> torch.device | None:
    """Where copies of so many bytes have room: on their device, else in the host's memory; None for nowhere."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        if size <= _ROOM_SHARE * free:
            return device
    pages = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else 0
    return torch.device("cpu") if size <= _ROOM_SHARE * pages * os.sysconf("SC_PAGE_SIZE") else None


def _sum(part: Tensor) -> int:
    """A figure that another content of the memory would hardly have."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = torch.view_as_real(part) if part.is_complex() else part
    kind = kinds.get(flat.element_size())
    return 0 if kind is None else int(flat.view(kind).sum(dtype=torch.int64))
