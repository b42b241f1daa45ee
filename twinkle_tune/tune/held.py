"""What a run with worker processes holds, and must let go of whatever happens."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.mark import Mark
from twinkle_tune.tune.process import WorkerProcess


@dataclass(slots=True)
class Held:
    """A worker process, and two files that have no name."""

    worker: WorkerProcess | None = None
    _file: IO[bytes] | None = None
    _mark: Mark | None = None

    @property
    def file(self) -> IO[bytes]:
        """In which the worker finds its task. Without a name no other user can open it, and it goes with us."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        return self._file

    @property
    def mark(self) -> Mark:
        """Where the worker says who is at work."""
        if self._mark is None:
            self._mark = Mark()
        return self._mark

    def begin(self, limits: Limits, device: str, modules: Sequence[str] = ()) -> WorkerProcess:
        """The device's worker, or a new one, which may not be ready: on Linux it ends with the thread that started it.

        ``modules`` are those that a new one imports before it is ready.
        """
        worker = self.worker
        wanted = (device, threading.get_ident())
        if worker is not None and (not worker.is_alive or (worker.device, worker.thread) != wanted):
            self.stop()
        if self.worker is None:
            self.worker = WorkerProcess(limits, device, self.file, self.mark, modules)
        return self.worker

    def ready(self, limits: Limits, device: str, modules: Sequence[str] = ()) -> WorkerProcess:
        """As :meth:`begin`, ready for tasks."""
        worker = self.begin(limits, device, modules)
        try:
            worker.wait_ready()
        except BaseException:
            self.worker = None  # it has ended
            raise
        return worker

    def stop(self) -> None:
        """End the worker process."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.stop()

    def empty(self) -> None:
        """Give back the disk space of the last task."""
        if self._file is None:
            return
        try:
            self._file.seek(0)
            self._file.truncate()
        except OSError:
            # The disk is full, and what is still to be written cannot be. The next task gets another file.
            self.close()

    def close(self) -> None:
        """Let go of everything."""
        self.stop()
        file, mark = self._file, self._mark
        self._file = self._mark = None
        if file is not None:
            with contextlib.suppress(OSError):  # of a full disk was told where it was written to
                file.close()
        if mark is not None:
            mark.close()
