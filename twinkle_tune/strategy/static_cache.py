"""A cache of a fixed size in the place of the one that grows, while a model generates text by its own ``generate``."""

from __future__ import annotations

from typing import Any

from torch import nn

from twinkle_tune.strategy.on_cuda import why_not_on_cuda

STATIC = "static"
"""The axis's value, as transformers' ``cache_implementation`` calls it; "" is the cache that a model makes itself."""
_STEP = 128
"""Tokens. Generations of other lengths shall have a cache of the same size, for which there is code, or a graph."""


def why_not_static(model: nn.Module) -> str:
    """Why a model is not to generate on a cache of a fixed size; "" where it may."""
    inner: Any = model
    config, settings = getattr(inner, "config", None), getattr(inner, "generation_config", None)
    if settings is None or not callable(getattr(inner, "generate", None)):
        return "the model generates no text"
    if getattr(config, "is_encoder_decoder", False):
        return "the model has two caches, its decoder's and its encoder's"
    if not getattr(type(inner), "_can_compile_fullgraph", False):
        return "transformers does not say that the model runs on a cache of a fixed size"
    if getattr(settings, "cache_implementation", None) is not None:
        return f"the model's generation_config asks for a {settings.cache_implementation} cache"
    # On a CPU a tiny Qwen3 took 8% longer on it than on one that grows, compiled both times, and 9% uncompiled.
    return why_not_on_cuda(model)


def capacity_for(tokens: int) -> int:
    """The tokens for which a cache has room that will hold so many."""
    return -(-tokens // _STEP) * _STEP
