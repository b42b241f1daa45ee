"""Generations on caches of a fixed size: the prompt as the original runs, each later token in a way.

The prompt's lengths differ, and the way's code, or graph, would be made for each of them; a later token's call looks
the same at every length, as long as the cache has room. So it is made once for each number of rows.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from twinkle_tune.catalog.fixed_cache import static_cache
from twinkle_tune.kernel.going import Case
from twinkle_tune.kernel.setup_calls import CACHE, are_rows
from twinkle_tune.kernel.watched import Watched
from twinkle_tune.strategy.base import Call
from twinkle_tune.strategy.static_cache import capacity_for

Key = tuple[int, int, bool]


@dataclass(slots=True, eq=False)
class Fixed:
    """A generation on such a cache.

    Attributes:
        case: in which its tokens run.
        tokens: in the cache.
    """

    case: Case
    tokens: int


class FixedCaches:
    """Those of one model. A cache is taken again when its generation is over, emptied: a graph knows where it is.

    In a contest it is, too, where the answer of ``generate`` has it: nobody reads it there.
    """

    def __init__(self) -> None:
        self._free: dict[Key, Any] = {}
        self._running: weakref.WeakKeyDictionary[Any, Fixed] = weakref.WeakKeyDictionary()

    def of(self, kwargs: Mapping[str, Any]) -> Fixed | None:
        """The generation that a call goes on with; None for any other call."""
        return self._running.get(cache) if (cache := kwargs.get(CACHE)) is not None and self._running else None

    def beginning(self, case: Case) -> Call:
        """The forward of a call that begins a generation in a way."""

        def begin(model: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            return self._begin(model, case, args, kwargs)

        return begin

    def _begin(self, model: nn.Module, case: Case, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The answer to a prompt, which the original gives, on a cache of a fixed size in the place of an empty one.

        The cache that the call was given is not touched, so that the call can be made again where this one fails.
        """
        generation = case.begins(model)
        assert generation is not None
        generation.has_begun = True
        ids = kwargs["input_ids"]
        key = (ids.shape[0], capacity_for(generation.tokens), torch.is_inference_mode_enabled())
        cache = self._free.pop(key, None)
        is_new = cache is None
        if is_new:
            cache = static_cache(model, key[1])
        answer = type(model).forward(model, *args, **{**kwargs, CACHE: cache})
        if is_new and case.backend is not None:
            case.backend.held_bytes += _bytes_of(cache)
        self._running[cache] = Fixed(case, ids.shape[1])
        held = weakref.ref(self)
        generation.at_end.append(lambda: _give_back(held(), key, cache))
        return answer

    def give_back(self, key: Key, cache: Any) -> None:
        """Take a cache whose generation is over for the next one."""
        self._running.pop(cache, None)
        cache.reset()
        self._free[key] = cache


def goes_on(model: nn.Module, watched: Watched, kwargs: Mapping[str, Any], rows: int | None) -> bool:
    """Whether a call on a cache of a fixed size runs in its way; else the original does, on the same cache."""
    ids = kwargs.get("input_ids")
    is_as_it_was = not model.training and not watched.has_hooks() and watched.has_its_forwards()
    return is_as_it_was and isinstance(ids, torch.Tensor) and are_rows({"input_ids": ids}, rows)


def has_written(fixed: Fixed, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call that failed has begun to write into its cache."""
    return int(kwargs[CACHE].get_seq_length()) != fixed.tokens


def _give_back(caches: FixedCaches | None, key: Key, cache: Any) -> None:
    if caches is not None:
        caches.give_back(key, cache)


def _bytes_of(cache: Any) -> int:
    tensors = (tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))
