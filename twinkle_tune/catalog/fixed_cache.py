"""The cache of a fixed size that transformers has for the models that it declares to run on one."""

from __future__ import annotations

from typing import Any

from torch import nn


def static_cache(model: nn.Module, capacity: int) -> Any:
    """An empty one for so many tokens; its tensors are made at the first call, of its batch, dtype and device."""
    from transformers import StaticCache

    owner: Any = model
    return StaticCache(config=owner.config.get_text_config(decoder=True), max_cache_len=capacity)
