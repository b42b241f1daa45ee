"""Copies lie where the originals lie, modulo 64 bytes."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from twinkle_tune.call.address import move_all, move_like, offset_of, offsets_of
from twinkle_tune.call.arguments import fresh, snapshot


def at(offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor at an address that is ``offset`` modulo 64."""
    size = torch.empty((), dtype=dtype).element_size()
    room = torch.arange(256, dtype=torch.float32).to(dtype)
    first = ((offset - room.data_ptr()) % 64) // size
    return room[first : first + torch.Size(shape).numel()].view(shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("offset", [0, 8, 24, 56])
def test_an_argument_keeps_its_place(offset: int, dtype: torch.dtype) -> None:
    """Copies of a call's tensors, and copies of those, have the original's address modulo 64 and its values."""
    tensor = at(offset, (3, 5), dtype)
    assert offset_of(tensor) == offset
    for given in (tensor, tensor.t(), tensor[:, 1:]):
        copied = fresh(snapshot((given,), {})).args[0]
        assert offset_of(copied) == offset_of(given)
        assert copied.stride() == given.stride()
        assert torch.equal(copied, given)


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.BatchNorm1d(5), nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))])
def test_a_layer_keeps_its_place(layer: nn.Module) -> None:
    """A copy, and what is read from a file, is moved to where the original lies; parameters stay the same objects."""
    for number, parameter in enumerate(layer.parameters()):
        parameter.data = at(8 * (number + 1), tuple(parameter.shape), parameter.dtype)
    copied = copy.deepcopy(layer)
    own = list(copied.parameters())
    move_like(copied, layer)
    assert offsets_of(copied) == offsets_of(layer)
    assert all(one is other for one, other in zip(own, copied.parameters(), strict=True))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    move_all(read, offsets_of(layer))
    assert offsets_of(read) == offsets_of(layer)
    assert all(torch.equal(one, other) for one, other in zip(read.parameters(), layer.parameters(), strict=True))
