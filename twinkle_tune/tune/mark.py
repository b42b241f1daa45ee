"""Who is at work in a worker process: a few bytes that both processes see, and that outlive the worker."""

from __future__ import annotations

import mmap
import struct
import tempfile
from dataclasses import dataclass
from typing import get_args

from twinkle_tune.outcome import Phase

_FORM = struct.Struct("=iidd")
_STAGES: tuple[Phase, ...] = get_args(Phase)
NOBODY = -1
"""In the place of a candidate: our own code is at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Who is at work.

    Attributes:
        candidate: its index in the task, or :data:`NOBODY`.
        stage: of its trial.
        until_s: by ``time.monotonic``, which is one clock for all processes: when it must be done.
        limit_s: seconds that it was given.
    """

    candidate: int
    stage: Phase
    until_s: float
    limit_s: float


class Mark:
    """The shared place. Setting it takes a microsecond and wakes nobody, so it does not disturb what is timed."""

    def __init__(self, file: int | None = None) -> None:
        """In a new nameless file, or in that of an open file descriptor."""
        self._file = tempfile.TemporaryFile() if file is None else open(file, "r+b", closefd=False)  # noqa: SIM115
        if file is None:
            self._file.truncate(_FORM.size)
        self._map = mmap.mmap(self._file.fileno(), _FORM.size)

    def fileno(self) -> int:
        """The file descriptor, for the other process."""
        return self._file.fileno()

    def set(self, candidate: int, stage: Phase, until_s: float, limit_s: float) -> None:
        """Write it down."""
        _FORM.pack_into(self._map, 0, candidate, _STAGES.index(stage), until_s, limit_s)

    def get(self) -> At:
        """Read it. While it is being written the parts may not belong together: who acts on it, reads it twice."""
        candidate, stage, until_s, limit_s = _FORM.unpack_from(self._map, 0)
        return At(candidate=candidate, stage=_STAGES[stage % len(_STAGES)], until_s=until_s, limit_s=limit_s)

    def close(self) -> None:
        """Let go of it."""
        self._map.close()
        self._file.close()
