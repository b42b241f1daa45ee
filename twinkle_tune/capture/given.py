"""A call of a model as it came, as example inputs of another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from twinkle_tune.capture.step import OF_GENERATION
from twinkle_tune.kernel.setup_calls import names_of


def repeatable(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A call's arguments as example inputs; None for one that goes on with a cache. A begun cache is left out.

    Returns:
        The positional arguments where there are no others, else a dict of all by name without those that are None.
    """
    named = dict(zip(names_of(model), args, strict=False)) | dict(kwargs)
    cache = named.pop("past_key_values", None)
    if cache is None:
        return args if not kwargs else {name: value for name, value in named.items() if value is not None}
    length = getattr(cache, "get_seq_length", None)
    if length is None or int(length()) > 0:
        return None
    return {name: value for name, value in named.items() if value is not None and name not in OF_GENERATION}
