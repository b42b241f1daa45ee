"""The addresses of what a contest works on, modulo 64: what is read from a file lies elsewhere than it did."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from twinkle_tune.call.address import move_all, move_to, offset_of, offsets_of
from twinkle_tune.call.arguments import named_tensors
from twinkle_tune.capture.capture import Observation

Offsets = tuple[tuple[int, ...], ...]


def placed(observation: Observation) -> Offsets:
    """The addresses of an observation's modules and arguments."""
    return (*map(offsets_of, _modules(observation)), tuple(map(offset_of, _arguments(observation))))


def place(observation: Observation, offsets: Offsets) -> None:
    """Give an observation that was read again the addresses that it had."""
    *modules, arguments = offsets
    for module, own in zip(_modules(observation), modules, strict=True):
        move_all(module, own)
    for tensor, offset in zip(_arguments(observation), arguments, strict=True):
        move_to(tensor, offset)


def _modules(observation: Observation) -> Iterator[nn.Module]:
    if observation.module is not None:
        yield observation.module
    if observation.block is not None:
        yield observation.block.module


def _arguments(observation: Observation) -> Iterator[Tensor]:
    for call in (observation.call, *(() if observation.block is None else (observation.block.call,))):
        for _, tensor in named_tensors(call):
            yield tensor
