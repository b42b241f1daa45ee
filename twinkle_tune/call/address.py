"""Where a tensor lies: copies keep the original's address modulo 64, for kernels ask for it, and are as fast by it.

A fresh tensor is aligned to 64 bytes, a weight that was loaded from a file to as little as 8, a slice of a larger
tensor to its elements: a kernel that needs 16 would be right on the copies and raise in the model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from twinkle_tune.call.bits import is_plain

ALIGNMENT = 64


def offset_of(tensor: Tensor) -> int:
    """A tensor's address modulo 64; 0 where it has none that can be told."""
    if not is_plain(tensor) or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        return 0
    return tensor.data_ptr() % ALIGNMENT if tensor.numel() and tensor.device.type != "meta" else 0


def empty_at(shape: torch.Size, strides: tuple[int, ...], like: Tensor, offset: int) -> Tensor:
    """Memory for a tensor of this form, of ``like``'s dtype and device, at an address that is ``offset`` modulo 64."""
    size = like.element_size()
    if not offset or offset % size:
        return torch.empty_strided(shape, strides, dtype=like.dtype, device=like.device)
    span = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    room = torch.empty(span + 2 * ALIGNMENT // size, dtype=like.dtype, device=like.device)
    first = (offset - room.data_ptr()) % ALIGNMENT
    if first % size:
        return torch.empty_strided(shape, strides, dtype=like.dtype, device=like.device)
    return room.as_strided(shape, strides, first // size)


def move_to(tensor: Tensor, offset: int) -> None:
    """Give a tensor memory at an address that is ``offset`` modulo 64, with the same values."""
    if offset_of(tensor) == offset or any(stride == 0 for stride in tensor.stride()):
        return
    with torch.no_grad():
        tensor.data = empty_at(tensor.shape, tensor.stride(), tensor, offset).copy_(tensor.detach())


def move_like(copied: nn.Module, original: nn.Module) -> None:
    """Give a module's copy the addresses of the original, modulo 64."""
    for one, other in zip(_state(copied), _state(original), strict=True):
        move_to(one, offset_of(other))


def offsets_of(module: nn.Module) -> tuple[int, ...]:
    """The addresses of a module's parameters and buffers, modulo 64."""
    return tuple(map(offset_of, _state(module)))


def move_all(module: nn.Module, offsets: tuple[int, ...]) -> None:
    """Give a module's parameters and buffers such addresses."""
    for tensor, offset in zip(_state(module), offsets, strict=True):
        move_to(tensor, offset)


def _state(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
