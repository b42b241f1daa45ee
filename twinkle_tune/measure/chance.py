"""Work that is done once more where it failed by chance: for want of memory that others had just then, say."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from twinkle_tune.errors import is_by_chance

_Made = TypeVar("_Made")


def unless_by_chance(work: Callable[[], _Made]) -> _Made:
    """What ``work`` gives, which is done once more where it raised what says nothing of the work itself.

    Raises:
        Exception: what it raised the second time, or the first time and not by chance
            (:func:`twinkle_tune.errors.is_by_chance`).
    """
    try:
        return work()
    except Exception as error:
        if not is_by_chance(error):
            raise
    # Not before: the error's frames hold what was allocated in them.
    let_go()
    return work()


def let_go() -> None:
    """Give back the memory that only garbage and torch's cache hold."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing where CUDA was not used yet
