"""SIGTERM, and SIGHUP of a terminal that is closed, end a command as Ctrl-C does: what was finished is kept.

Compilers that the command has started end with it, and before it: see :mod:`twinkle_tune.tune.compilers`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from twinkle_tune.tune.compilers import end_compilers

INTERRUPTED = 128 + signal.SIGINT
"""Exit codes are 128 and the number of the signal."""


class Stops:
    """What has stopped the command."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.code: int = INTERRUPTED


@contextmanager
def stoppable(stops: Stops | None = None) -> Iterator[Stops]:
    """Within, SIGTERM and SIGHUP raise KeyboardInterrupt as SIGINT does, the first time; afterwards all is as before.

    A signal that was ignored (SIGHUP under nohup) stays ignored. Only the main thread receives signals: elsewhere
    this changes nothing.

    Args:
        stops: is told of the signal; None for one of its own.
    """
    stops = Stops() if stops is None else stops
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped and number != signal.SIGINT:  # what the first has begun is not to be disturbed by chance
            return
        if not stopped:
            stopped = True
            stops.code = 128 + number
            end_compilers(os.getpid())  # before whoever waits for one kills it
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield stops
    finally:
        for number in taken:
            signal.signal(number, before[number] or signal.SIG_DFL)  # None: set by C code
