from __future__ import annotations

from typing import Any

import pytest
import torch

from twinkle_tune.capture.kv_cache import PrefilledCache


class Growing:
    """Grows by concatenation."""

    def __init__(self) -> None:
        self.keys, self.length = torch.zeros(1, 2), 1

    def reset(self) -> None: ...

    def update(self) -> None:
        self.keys, self.length = torch.cat([self.keys, torch.ones(1, 2)]), self.length + 1


class Static(Growing):
    """Writes into one tensor."""

    def update(self) -> None:
        self.keys[0] += 1
        self.length += 1


class Layered:
    """Holds layers, as transformers' caches do."""

    def __init__(self, layer: type[Growing]) -> None:
        self.layers = [layer(), layer()]

    def reset(self) -> None: ...


@pytest.mark.parametrize("layer", [Growing, Static])
def test_every_use_starts_alike(layer: type[Growing]) -> None:
    """Whether a cache grows or writes in place, each use meets the tensors and lengths of the prefill."""
    prefilled = PrefilledCache(Layered(layer))
    for _ in range(3):
        cache: Any = prefilled.take()
        assert [part.length for part in cache.layers] == [1, 1]
        assert not any(part.keys.any() for part in cache.layers)
        for part in cache.layers:
            part.update()
        prefilled.settle()


def test_a_growing_cache_is_not_copied() -> None:
    """Handing out a growing cache shares its tensors; one that is written to in place is copied."""
    for layer, shared in ((Growing, True), (Static, False)):
        prefilled = PrefilledCache(Layered(layer))
        cache: Any = prefilled.take()
        cache.layers[0].update()
        prefilled.settle()
        one: Any = prefilled.take()
        other: Any = prefilled.take()
        assert (one.layers[0].keys is other.layers[0].keys) is shared


def test_a_change_after_the_prefill_is_not_seen() -> None:
    """The prefill's own cache may change, or its memory be reused: what is handed out stays."""
    source = Layered(Growing)
    prefilled = PrefilledCache(source)
    source.layers[0].keys.fill_(9)
    taken: Any = prefilled.take()
    assert not taken.layers[0].keys.any()


def test_tuples_are_caches_too() -> None:
    """A cache of nested tuples is handed out with its tensors shared."""
    prefilled = PrefilledCache(((torch.zeros(1), torch.zeros(1)),))
    first: Any = prefilled.take()
    prefilled.settle()
    second: Any = prefilled.take()
    assert first[0][0] is second[0][0]
