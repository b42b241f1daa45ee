"""The configs of LayerNorm's kernels."""

from __future__ import annotations

from twinkle_tune.ops.row_space import NAMES, row_default, row_space
from twinkle_tune.ops.space import Config, Dims, Space

__all__ = ["NAMES", "default", "space"]

_MOST = 32768
"""Widest row that a program holds in registers going forward: 32 elements for each of 1024 threads."""
_BACK_MOST = 8192
"""And backward, where x, dy, the weight and the sums of two gradients are held at once."""


def space(dims: Dims) -> Space:
    """The configs for a call of (rows, width)."""
    return row_space(dims, _MOST, _BACK_MOST)


def default(dims: Dims, architecture: int) -> Config:
    """The config for a call that nobody has tuned."""
    return row_default(dims, architecture, _MOST, _BACK_MOST)
