"""Shapes while a forward is traced: how many sizes they have is known, the sizes are not.

How many dimensions an argument has is part of the form of a call, which is looked at before each call; so
``(*x.shape[:-1], heads, -1)`` has items that can be counted. What the sizes are is asked at each call.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx


def length_of(node: fx.Node) -> int | None:
    """How many items the shape of an argument has, or a slice of it; None for everything else."""
    args = node.args
    is_shape = node.op == "call_function" and node.target is getattr and args[1:] == ("shape",)
    if is_shape or (node.op == "call_method" and node.target == "size" and len(args) == 1 and not node.kwargs):
        tensor = args[0]
        return tensor.meta.get("dims") if isinstance(tensor, fx.Node) else None
    if node.op == "call_function" and node.target is operator.getitem and isinstance(args[1], slice):
        length = length_of(args[0]) if isinstance(args[0], fx.Node) else None
        return len(range(length)[args[1]]) if length is not None and _is_plain(args[1]) else None
    return None


def _is_plain(index: Any) -> bool:
    return all(part is None or type(part) is int for part in (index.start, index.stop, index.step))
