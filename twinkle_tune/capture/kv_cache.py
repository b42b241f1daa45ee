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
        return _fork(self._cache) if self._shares else copy.deepcopy(self._cache)

    def settle(self) -> None:
        """To be called after the first use of what :meth:`take` gave: were the shared tensors written to?"""
        if self._reference is None:
            return
        if not _same(self._cache, self._reference):
            self._cache, self._shares = self._reference, False
        self._reference = None


def _is_plain(value: object) -> bool:
    return isinstance(value, (list, tuple)) or _has_state(value)


def _has_state(value: object) -> bool:
    is_data = not isinstance(value, (type, torch.Tensor, nn.Module))
    return is_data and hasattr(value, "__dict__") and callable(getattr(type(value), "reset", None))


def _fork(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_fork(item) for item in value)
    if type(value) is dict:
        return {key: _fork(item) for key, item in value.items()}
    if _has_state(value):
        twin = object.__new__(type(value))
        twin.__dict__.update({name: _fork(item) for name, item in value.__dict__.items()})
        return twin
    return value


def _same(left: object, right: object) -> bool:
    pairs = zip(_leaves(left), _leaves(right), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif _has_state(value):
        yield from _leaves(value.__dict__)
    elif isinstance(value, (torch.Tensor, bool, int, float, str)):
        yield value
