"""A KV cache that is the same at the start of every decode step.

A cache is known by what it does, not by its class: transformers' caches and their layers are plain objects
with a ``reset`` method, which hold tensors, numbers and lists of such objects; older models use nested
tuples.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


class PrefilledCache:
    """A filled cache, handed out as often as wanted.

    A cache that grows by making new tensors (every dynamic one, sliding windows included) is handed out as a
    new object around the same tensors, which costs microseconds. One that writes into its tensors is copied
    whole. Which of the two it is, is found out at the first use: see :meth:`settle`.
    """

    def __init__(self, cache: object) -> None:
        # A copy, because a compiled model may reuse the memory of its outputs.
        self._cache = copy.deepcopy(cache)
        self._shares = _is_plain(cache)
        self._reference: object | None = copy.deepcopy(self._cache) if self._shares else None

    def take(self) -> object:
        """The cache, as it was after the prefill."""
        return forked(self._cache) if self._shares else copy.deepcopy(self._cache)

    def settle(self) -> None:
        """To be called after the first use of what :meth:`take` gave: were the shared tensors written to?"""
        if self._reference is None:
            return
        if not _same(self._cache, self._reference):
            self._cache, self._shares = self._reference, False
        self._reference = None


def _is_plain(value: object) -> bool:
    return isinstance(value, (list, tuple)) or has_state(value)


def has_state(value: object) -> bool:
    """Whether a value is a cache, or a layer of one: a plain object that can be reset."""
    is_data = not isinstance(value, (type, torch.Tensor, nn.Module))
    return is_data and hasattr(value, "__dict__") and callable(getattr(type(value), "reset", None))


def forked(value: Any) -> Any:
    """A new cache around the same tensors; anything that is none is given back as it is."""
    if type(value) in (list, tuple):
        return type(value)(forked(item) for item in value)
    if type(value) is dict:
        return {key: forked(item) for key, item in value.items()}
    if has_state(value):
        twin = object.__new__(type(value))
        twin.__dict__.update({name: forked(item) for name, item in value.__dict__.items()})
        return twin
    return value


def _same(left: object, right: object) -> bool:
    pairs = zip(leaves(left), leaves(right), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def leaves(value: Any) -> Iterator[Any]:
    """The tensors and plain values in a cache."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif has_state(value):
        yield from leaves(value.__dict__)
    elif isinstance(value, (torch.Tensor, bool, int, float, str)):
        yield value
