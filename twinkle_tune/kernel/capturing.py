"""The hooks by which transformers captures hidden states: they stay on the layers, and do nothing unless asked."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

_MODULE = "transformers.utils.output_capturing"


def all_idle(hooks: Iterable[Mapping[Any, Any]]) -> bool:
    """Whether all of these hooks are transformers' own for capturing outputs, and none is captured now."""
    return all(getattr(hook, "__module__", None) == _MODULE for each in hooks for hook in each.values()) and _is_idle()


def _is_idle() -> bool:
    collector = getattr(sys.modules.get(_MODULE), "_active_collector", None)
    return collector is not None and collector.get() is None
