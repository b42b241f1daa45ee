"""Running a model without a trace: gradients, and the buffers that a forward writes to, are put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import ref

import torch
from torch import nn

_LARGE_BYTES = 1 << 24
"""Buffers above this are weights in disguise (quantised layers keep theirs so): never copied."""

_Where = tuple[int, str]
"""A buffer: its module's identity, its name."""


class Untouched:
    """Keeps a model as it is over many runs, at a small cost for each.

    The first run of a model, and the first after a train flag changed, copies every buffer and learns which
    ones a run writes to (the running statistics of a batch norm); later runs copy only those. A buffer that
    was replaced by another tensor is put back always.
    """

    def __init__(self, *, gradients: bool) -> None:
        self._gradients = gradients
        self._model: ref[nn.Module] | None = None
        self._modules: tuple[nn.Module, ...] = ()
        self._flags: list[bool] = []
        self._written: set[_Where] | None = None

    @contextmanager
    def around(self, model: nn.Module) -> Iterator[None]:
        """While this is open no parameter has a ``.grad``; afterwards each has the one that it had before."""
        if self._model is None or self._model() is not model:
            self._model, self._written = ref(model), None
            holds = ("_buffers", "_parameters") if self._gradients else ("_buffers",)
            self._modules = tuple(m for m in model.modules() if any(getattr(m, name) for name in holds))
        flags = [module.training for module in self._modules]
        if flags != self._flags:
            self._flags, self._written = flags, None
        grads = self._take_gradients()
        buffers = [(module, dict(module._buffers)) for module in self._modules if module._buffers]
        copies = self._copy_buffers(buffers)
        is_whole = False
        try:
            yield
            is_whole = True
        finally:
            for module, saved in buffers:
                if any(module._buffers.get(name) is not tensor for name, tensor in saved.items()):
                    module._buffers.clear()
                    module._buffers.update(saved)
            self._put_back(copies, is_whole)
            for parameter, grad in grads:
                parameter.grad = grad

    def _take_gradients(self) -> list[tuple[nn.Parameter, torch.Tensor | None]]:
        if not self._gradients:
            return []
        # A tied parameter comes by twice and must be noted once, while its gradient is still there.
        parameters = {id(p): p for m in self._modules for p in m._parameters.values() if p is not None}
        grads = [(parameter, parameter.grad) for parameter in parameters.values()]
        for parameter, _ in grads:
            parameter.grad = None
        return grads

    def _copy_buffers(
        self, buffers: list[tuple[nn.Module, dict[str, torch.Tensor | None]]]
    ) -> dict[_Where, tuple[torch.Tensor, torch.Tensor]]:
        if self._written is not None and not self._written:
            return {}
        copies = {}
        for module, tensors in buffers:
            for name, tensor in tensors.items():
                where = (id(module), name)
                if tensor is None or (self._written is not None and where not in self._written):
                    continue
                if tensor.numel() * tensor.element_size() <= _LARGE_BYTES:
                    copies[where] = (tensor, tensor.detach().clone())
        return copies

    def _put_back(self, copies: dict[_Where, tuple[torch.Tensor, torch.Tensor]], is_whole: bool) -> None:
        written = self._written
        if written is None:
            # By value: a batch norm writes its statistics without telling autograd's version counter.
            written = {where for where, (tensor, copy) in copies.items() if not torch.equal(tensor, copy)}
            # A run that raised has not shown all that it writes to.
            self._written = written if is_whole else None
        with torch.no_grad():
            for tensor, copy in (copies[where] for where in written & copies.keys()):
                tensor.copy_(copy)
