"""What a wrong implementation is; the ones there are stand in the files beside this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

HALVES = (torch.bfloat16, torch.float16)
ALL = (torch.float32, *HALVES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A mistake.

    Attributes:
        name, op: what is wrong, with which original.
        make: gives a fresh candidate, as some remember what they were given.
        points: the points of the rule that may refuse it; empty where the verdict is "inconclusive".
        trains: where only gradients show it.
        dtypes: where it is a mistake: to compute in bfloat16 is none where the model does.
        strict: where point 5 alone may see it.
        values: whether comparing outputs and gradients on the captured shape could find it; else it is conduct
            (memory, arguments, other sizes), which other tools' rules do not look at.
    """

    name: str
    op: str
    make: Callable[[], Callable[..., Any]]
    points: tuple[int, ...]
    trains: bool = False
    dtypes: tuple[torch.dtype, ...] = ALL
    strict: bool = False
    values: bool = True


def wrong(op: str, name: str, call: Callable[..., Any], *points: int, **more: Any) -> Wrong:
    """A mistake that remembers nothing."""
    return Wrong(op=op, name=name, make=lambda: call, points=points, **more)
