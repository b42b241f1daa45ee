"""For kernel authors: hold a kernel against what it replaces, by the rule that decides in a profiling run.

Importing this imports no torch, so that the pytest plugin costs a test session nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twinkle_tune.testing.parity import assert_parity

__all__ = ["assert_parity"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from twinkle_tune.testing import parity

    return getattr(parity, name)
