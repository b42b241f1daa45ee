"""The memory of any tensor: what it holds, bit by bit, and putting that back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_KINDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def parts_of(tensor: Tensor) -> Iterator[Tensor]:
    """The plain strided tensors that hold a tensor's values; none where it has no memory that can be read.

    A plain tensor is its own part. Sparse and nested ones have several, and subclasses (quantised weights) keep theirs
    in attributes.
    """
    if is_lazy(tensor) or tensor.device.type == "meta":
        return
    if not is_plain(tensor):
        yield from _inner(tensor)
    elif tensor.layout is torch.strided:
        if tensor.is_nested:
            yield from tensor.detach().unbind()
        elif not tensor.is_quantized:
            yield tensor.detach()
    elif tensor.layout is torch.sparse_coo:
        yield from (tensor.detach()._indices(), tensor.detach()._values())
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield from (tensor.detach().crow_indices(), tensor.detach().col_indices(), tensor.detach().values())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield from (tensor.detach().ccol_indices(), tensor.detach().row_indices(), tensor.detach().values())


def is_plain(tensor: Tensor) -> bool:
    """Whether it is torch's own kind of tensor, and no subclass that may do anything."""
    return type(tensor) in (Tensor, nn.Parameter, nn.Buffer)


def _inner(tensor: Tensor) -> Iterator[Tensor]:
    names = list(getattr(tensor, "__dict__", ()))
    if hasattr(tensor, "__tensor_flatten__"):
        names = [*tensor.__tensor_flatten__()[0], *names]
    found = {id(part): part for name in names if isinstance(part := getattr(tensor, name, None), Tensor)}
    for part in found.values():
        if part is not tensor:
            yield from parts_of(part)
    if not found:
        with contextlib.suppress(RuntimeError, NotImplementedError, TypeError):  # a wrapper without any memory
            with torch._C.DisableTorchFunctionSubclass():
                plain = tensor.detach().as_subclass(Tensor)
            if plain.layout is torch.strided and plain.data_ptr():
                yield plain


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two plain strided tensors of one form hold the same bits (NaN equals itself, 0 differs from -0)."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_complex():
        one, other = torch.view_as_real(one.resolve_conj()), torch.view_as_real(other.resolve_conj())
    kind: Any = _KINDS.get(one.element_size())
    if kind is None:
        return True  # of a dtype with elements of another size nothing can be read
    return torch.equal(one.view(kind), other.to(one.device).view(kind))


def put_into(tensor: Tensor, values: Tensor) -> None:
    """Write values into a plain strided tensor, without a word to autograd."""
    target, source = tensor.detach(), values
    for dim, (size, stride) in enumerate(zip(target.shape, target.stride(), strict=True)):
        if size > 1 and stride == 0:  # an expanded dimension holds one element
            target, source = target.narrow(dim, 0, 1), source.narrow(dim, 0, 1)
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        (target if target.is_inference() else target.data).copy_(source)
