"""SIGTERM ends a command as Ctrl-C does: what was finished is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes: 128 and the number of the signal."""


class Stops:
    """What has stopped the command."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.code = INTERRUPTED


@contextmanager
def stoppable() -> Iterator[Stops]:
    """Within, SIGTERM raises KeyboardInterrupt; afterwards it does what it did before.

    Only the main thread receives signals: elsewhere this changes nothing.
    """
    stops = Stops()
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return

    def stop(number: int, frame: FrameType | None) -> None:
        stops.code = TERMINATED
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield stops
    finally:
        signal.signal(signal.SIGTERM, before)
