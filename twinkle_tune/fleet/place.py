"""What runs on a device of a cluster: it takes contests as bytes, and holds each in a worker process of its own."""

from __future__ import annotations

import io
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, Literal

from twinkle_tune.contest.events import RoundTimed
from twinkle_tune.environment import Environment, current_environment
from twinkle_tune.errors import in_a_line
from twinkle_tune.tune.events import Event
from twinkle_tune.tune.executor import Executor, only
from twinkle_tune.tune.in_process import InProcess
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.package import Header, Unportable, load_files, original_digest, pack, unpack
from twinkle_tune.tune.process import WorkerError
from twinkle_tune.tune.shared import set_settings
from twinkle_tune.tune.task import Task
from twinkle_tune.tune.wire import result_data

_SHOWN_S = 1.0
"""Rounds are told no more often than this: who is told sits on another machine."""

Kind = Literal["event", "result", "undecided", "unportable", "error", "other"]
Message = tuple[Kind, Any]
"""What a place says of a contest: an event, its result as plain data; or why there is none, a word and a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A contest as it travels.

    Attributes:
        data: as :func:`twinkle_tune.tune.package.pack` has written it.
        header: what is to be known before that can be read.
        deadline_s: of the task.
    """

    data: bytes
    header: Header
    deadline_s: float | None


def parcel_of(task: Task) -> Parcel:
    """A task as it travels. Raises Unportable where a part of it is known to this process alone."""
    file = io.BytesIO()
    header = pack(task, file)
    return Parcel(data=file.getvalue(), header=header, deadline_s=task.deadline_s)


class Place:
    """A device, in a process of its own on the device's machine."""

    def __init__(self, device: str, settings: Mapping[str, object], limits: Limits | None) -> None:
        """Take possession of it.

        Args:
            device: "cpu", "cuda:1".
            settings: of the process of the run: how many threads torch uses is part of what a device is.
            limits: of the worker process; None for contests in this process.
        """
        kind, _, number = device.partition(":")
        if number and kind != "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = number
        self._device, self._settings = kind, dict(settings)
        set_settings(self._settings)
        self._executor: Executor = InProcess() if limits is None else Isolated(limits, ahead=True)
        # A worker process ends with the thread that has started it.
        self._thread = ThreadPoolExecutor(max_workers=1)

    def environment(self) -> Environment:
        """What the device is."""
        return current_environment(self._device)

    def where(self) -> tuple[str, int]:
        """The machine's name and this process's id."""
        return socket.gethostname(), os.getpid()

    def hold(self, parcel: Parcel) -> Iterator[Message]:
        """Hold a contest. The last message is no event."""
        said: SimpleQueue[Message] = SimpleQueue()
        self._thread.submit(self._hold, parcel, said.put)
        while True:
            message = said.get()
            yield message
            if message[0] != "event":
                return

    def _hold(self, parcel: Parcel, say: Callable[[Message], None]) -> None:
        try:
            say(self._held(parcel, say))
        except Unportable as error:
            say(("unportable", str(error)))
        except WorkerError as error:
            say(("error", str(error)))
        except BaseException as error:  # whoever waits is to hear of it
            say(("other", f"raised {in_a_line(error)}"))

    def _held(self, parcel: Parcel, say: Callable[[Message], None]) -> Message:
        task = self._read(parcel)
        here = self.environment().fingerprint
        if task.environment not in ("", here):
            return "other", f"is of kind {here}, expected {task.environment}"
        shown_s = -_SHOWN_S

        def tell(event: Event) -> None:
            nonlocal shown_s
            if isinstance(event, RoundTimed):
                if time.monotonic() - shown_s < _SHOWN_S:
                    return
                shown_s = time.monotonic()
            say(("event", event))

        contest = only(self._executor, task, tell)
        return ("result", result_data(contest)) if contest.trials else ("undecided", contest.selection.reason)

    def _read(self, parcel: Parcel) -> Task:
        sys.path += [path for path in parcel.header.path if path not in sys.path]
        try:
            load_files(parcel.header.files)
            task = unpack(io.BytesIO(parcel.data), is_elsewhere=True)
        except Unportable:
            raise
        except (Exception, SystemExit) as error:
            raise Unportable(f"it cannot be read on another machine ({in_a_line(error)})") from error
        if original_digest(task.observation.occurrence) != parcel.header.original:
            raise Unportable("the original's code is another there")
        return replace(task, deadline_s=parcel.deadline_s)
