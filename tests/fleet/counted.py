"""A clock that counts: a call takes as many microseconds as it calls functions of torch, on whichever machine.

Ray's workers set it up as well (:func:`set_up`), and write down which contest each device held, and when.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch.overrides import TorchFunctionMode

from tests.fleet import replayed
from twinkle_tune.fleet.place import Place

PLACES = ("contest.call.slot_clock", "tune.tune.clock_for", "tune.setups.clock_for")
LOG = "TWINKLE_TEST_LOG"
"""Environment variable: the folder in which each contest is written down."""
PAUSE = "TWINKLE_TEST_PAUSE_S"
"""Environment variable: how long each contest waits before it begins."""


class Counting(TorchFunctionMode):
    """Counts calls."""

    def __init__(self) -> None:
        super().__init__()
        self.count: int = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Counted:
    """The clock."""

    name = "counted"

    def block_calls(self, call: Callable[[], object]) -> int:
        """One."""
        return 1

    def burst_us(self, call: Callable[[], object], block_calls: int) -> float:
        """How many functions a call calls."""
        return self.first_call_us(call)

    def first_call_us(self, call: Callable[[], object]) -> float:
        """The same."""
        counting = Counting()
        with counting:
            call()
        return 10.0 + counting.count

    def peak_bytes(self, call: Callable[[], object]) -> None:
        """Not known."""

    def synchronize(self) -> None:
        """Nothing waits."""


@contextmanager
def counted() -> Iterator[None]:
    """Everything that ``tune_model`` times in this process is counted, and no contest is too little to be held."""
    clock = Counted()
    with ExitStack() as stack:
        for place in PLACES:
            stack.enter_context(patch(f"twinkle_tune.{place}", lambda device, **_: clock))
        stack.enter_context(patch("twinkle_tune.tune.tune.is_ours", lambda *rest: False))
        yield


def set_up() -> None:
    """Of a worker of Ray's: contests are timed by the counting clock, and written down."""
    clock: Any = Counted()
    patch("twinkle_tune.contest.call.slot_clock", lambda device, **_: clock).start()
    replayed.set_up(Path(os.environ[LOG]))
    held = Place._held

    def written(self: Place, parcel: Any, say: Any) -> Any:
        began_s = time.time()
        time.sleep(float(os.environ.get(PAUSE, "0")))
        try:
            return held(self, parcel, say)
        finally:
            told = [_resource(), began_s, time.time(), self.environment().fingerprint]
            with (Path(os.environ[LOG]) / f"{os.getpid()}.jsonl").open("a") as file:
                file.write(json.dumps(told) + "\n")

    Place._held = written  # type: ignore[method-assign]


def _resource() -> str:
    """The device that this process holds, as Ray says it."""
    context = importlib.import_module("ray").get_runtime_context()
    return str(next(iter(context.get_assigned_resources())))
