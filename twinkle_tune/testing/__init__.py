"""For kernel authors: hold a kernel against what it replaces, time it in tests, put a winner into a profile.

Importing this imports no torch, so that the pytest plugin costs a test session nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twinkle_tune.testing.benchmark import benchmark_kernel
    from twinkle_tune.testing.parity import assert_parity
    from twinkle_tune.testing.winner import with_winner

__all__ = ["assert_parity", "benchmark_kernel", "with_winner"]

_FILES = {"assert_parity": "parity", "benchmark_kernel": "benchmark", "with_winner": "winner"}


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
