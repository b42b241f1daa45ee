"""What a forward asks of the process, or sets there, is in no graph: such a forward has none."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch

from twinkle_tune.errors import GraphError
from twinkle_tune.graph.names import names_in

_ASKED = frozenset(
    {
        "is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled", "is_autocast_cpu_enabled",
        "get_autocast_dtype", "get_autocast_gpu_dtype", "no_grad", "enable_grad", "inference_mode", "set_grad_enabled",
        "autocast", "maybe_autocast",
    }
)  # fmt: skip


def check_asks_nothing(forward: Any, kind: type) -> None:
    """Refuse a forward in whose code, or in that of what it calls in its class and its file, gradients or autocast are
    asked about or switched: only the calls inside would be written down.

    Raises:
        GraphError: it is so.
    """
    waiting, seen = [forward], set[int]()
    while waiting:
        function = waiting.pop()
        if not isinstance(function, FunctionType) or id(function) in seen:
            continue
        seen.add(id(function))
        if function.__code__.co_filename.endswith("torch/utils/_contextlib.py"):
            raise GraphError(f"{function.__qualname__} runs with gradients, or autocast, switched")
        for name in names_in(function.__code__):
            if name in _ASKED:
                raise GraphError(f"{function.__qualname__} asks about gradients or autocast, or switches them ({name})")
            found = function.__globals__.get(name)
            if isinstance(found, FunctionType) and found.__globals__ is function.__globals__:
                waiting.append(found)
            method = getattr(kind, name, None)
            if name != "forward" and not hasattr(torch.nn.Module, name):
                waiting.append(method)


@contextmanager
def draws_nothing() -> Iterator[None]:
    """Refuse what draws random numbers by itself: they would be drawn once. The state is put back.

    Raises:
        GraphError: a number was drawn.
    """
    numpy: Any = sys.modules.get("numpy")
    state = numpy.random.get_state() if numpy is not None else None
    before, drawn = random.getstate(), torch.get_rng_state()
    try:
        yield
    finally:
        after = numpy.random.get_state() if numpy is not None else None
        is_same = random.getstate() == before and torch.equal(torch.get_rng_state(), drawn)
        if after is not None and state is not None:
            is_same = is_same and after[2] == state[2] and (after[1] == state[1]).all()
        if not is_same:
            random.setstate(before)
            torch.set_rng_state(drawn)
            if numpy is not None:
                numpy.random.set_state(state)
    if not is_same:
        raise GraphError("it draws random numbers")
