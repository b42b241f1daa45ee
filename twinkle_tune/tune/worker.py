"""A worker process: takes contests from its run one by one, and tells what comes of them.

Whatever a candidate does to the process, the run knows from the :class:`Mark` whose doing it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic as _now_s
from typing import IO, Any, Never

import torch

from twinkle_tune.cause import OF_MEMORY, Cause, cause_of
from twinkle_tune.contest.events import TrialRefused
from twinkle_tune.device import cuda_in_use
from twinkle_tune.errors import TuneError
from twinkle_tune.outcome import Phase, Rejection
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.allowance import limit_device, limit_host
from twinkle_tune.tune.events import Event
from twinkle_tune.tune.in_process import InProcess
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.mark import NOBODY, Mark
from twinkle_tune.tune.package import Unportable, load_files, original_digest, unpack
from twinkle_tune.tune.state import changes_since, noted_since, state_now
from twinkle_tune.tune.task import Task
from twinkle_tune.tune.tuned import Configs
from twinkle_tune.tune.watch import Looks
from twinkle_tune.tune.wire import event_data, result_data, send

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
# Bound here and now: our own way out stays the way out.
_exit = os._exit


_pid = os.getpid()
_forks: list[int] = []


class Fault(BaseException):
    """A candidate did something after which this process is good for nothing. Nobody below the top catches it."""

    def __init__(self, candidate: str, stage: Phase, reason: str, cause: Cause = "meddled") -> None:
        super().__init__(reason)
        self.told = TrialRefused(candidate=candidate, stage=stage, reason=reason, cause=cause)


class ProcessWatch(Looks):
    """Writes down who is at work and until when, and looks at what each candidate leaves behind."""

    def __init__(self, mark: Mark, limits: Limits, task: Task) -> None:
        """For one contest."""
        super().__init__(task)
        self._mark, self._limits = mark, limits
        self._index = {candidate.name: index for index, candidate in enumerate(task.candidates)}
        self._made_s = _now_s()
        self._ends_s = None if task.deadline_s is None else self._made_s + task.deadline_s
        self._prepared_s: float | None = None
        self._original_s: dict[Phase, float] = {}
        self._began_s = self._limit_s = 0.0
        self._stage: Phase = "load"

    def begins(self, candidate: str, stage: Phase) -> Phase:
        """As :meth:`Watch.begins`."""
        super().begins(candidate, stage)
        limit_s = self._limits.setup_s
        if candidate != ORIGINAL:
            limit_s = self._limits.stage_s(stage, self._original_s.get(stage, 0.0), self._left_s())
        self._began_s, self._limit_s = _now_s(), limit_s
        self._mark.set(self._index[candidate], stage, self._began_s + limit_s, limit_s)
        return stage

    def _left_s(self) -> float | None:
        """What the budget leaves the candidates, once a process that takes this one's place has come as far again."""
        now_s = _now_s()
        if self._prepared_s is None:
            self._prepared_s = now_s - self._made_s
        return None if self._ends_s is None else max(0.0, self._ends_s - now_s - self._prepared_s)

    def goes_on(self) -> None:
        """As :meth:`Watch.goes_on`."""
        if self.at is not None:
            candidate, stage = self.at
            self._mark.set(self._index[candidate], stage, _now_s() + self._limit_s, self._limit_s)

    def ends(self, candidate: str) -> None:
        """As :meth:`Watch.ends`; raises Fault where the candidate changed what all share, or broke the device."""
        self._look()
        self.nobody()

    def nobody(self) -> None:
        """Our own code is at work, after the stage that was."""
        if self.at is not None:
            self._stage = self.at[1]
        self.at = None
        self._mark.set(NOBODY, self._stage, _now_s() + self._limits.setup_s, self._limits.setup_s)

    def _look(self) -> None:
        """What a stage that is over has left behind. The original's changes are the state that others start from."""
        if self.at is None:
            return
        name, stage = self.at
        if name == ORIGINAL:
            took_s = _now_s() - self._began_s
            self._original_s[stage] = max(took_s, self._original_s.get(stage, 0.0))
            if stage != "timing":
                self._state = state_now(self._extra)
            return
        broken = _broken_device()
        if broken:
            raise Fault(name, stage, f"left the device unusable: {broken}")
        if _forked():
            raise Fault(name, stage, "forked the process")
        if self._state is None:
            return
        changed = changes_since(self._state)
        if changed:
            raise Fault(name, stage, f"{changed}, which others in the process share")
        notes = noted_since(self._state)
        if notes:
            self._notes[name].update(dict.fromkeys(notes))
            self._state = state_now(self._extra)


def main(config: Mapping[str, Any]) -> Never:
    """Serve one run until it closes the connection.

    Args:
        config: the numbers of the open file descriptors "socket", "task" and "mark", the id of the run's process
            as "parent", the "device", the "limits" and the "modules" to import.
    """
    for name in ("socket", "task", "mark"):
        os.set_inheritable(config[name], False)
    limits = Limits(**config["limits"])
    _die_with(config["parent"])
    host_bytes = limit_host(limits, config["device"])
    os.register_at_fork(after_in_parent=lambda: _forks.append(os.getpid()))
    connection = socket.socket(fileno=config["socket"])
    lines = connection.makefile("rb")
    for name in config["modules"]:
        with contextlib.suppress(ImportError):  # who reads the task meets it again, and tells
            importlib.import_module(name)
    send(connection, **{"is": "ready"})
    worker = _Worker(connection, lines, Mark(config["mark"]), config["task"], limits, host_bytes)
    for line in lines:
        worker.serve(json.loads(line))
    _exit(0)


class _Worker:
    def __init__(
        self,
        connection: socket.socket,
        lines: IO[bytes],
        mark: Mark,
        file: int,
        limits: Limits,
        host_bytes: int | None,
    ) -> None:
        self._connection, self._lines, self._mark, self._file = connection, lines, mark, file
        self._limits, self._host_bytes = limits, host_bytes
        self._device_bytes: int | None = None
        self._configs = Configs()
        self._watch: ProcessWatch | None = None

    def serve(self, message: Mapping[str, Any]) -> None:
        """Run one contest and send how it ended. After a fault the process ends: it is not what it was."""
        self._watch = None
        try:
            answer = self._run(message)
        except Fault as fault:
            answer = {"is": "fault", "event": event_data(fault.told)}
        except Unportable as error:
            answer = {"is": "unportable", "reason": str(error)}
        except BaseException as error:
            # What comes this far is the original's, or no Exception: a candidate's sys.exit, a KeyboardInterrupt.
            answer = self._raised(error)
        self._send(answer)
        if answer["is"] != "result":
            _exit(1)

    def _run(self, message: Mapping[str, Any]) -> dict[str, Any]:
        sys.path[:] = message["path"]
        task = self._read(message["files"])
        if self._device_bytes is None and cuda_in_use():
            self._device_bytes = limit_device(self._limits)
        digest = original_digest(task.observation.occurrence)
        if digest != message["original"]:
            raise Unportable("the original's code is another in the worker process (it was replaced in this one)")
        without = set(message["without"])
        kept = tuple(c for c in task.candidates if c.name not in without)
        task = replace(task, candidates=kept, deadline_s=message["deadline_s"])
        self._watch = ProcessWatch(self._mark, self._limits, task)
        contest = InProcess(self._watch, self._configs).hold(task, self._tell)
        self._watch.nobody()
        for trial in contest.trials:
            if isinstance(outcome := trial.outcome, Rejection) and outcome.cause in OF_MEMORY:
                memory = self._memory(outcome.reason, outcome.cause)
                raise Fault(trial.candidate, outcome.stage, memory, outcome.cause)
        compiles = task.terms.mode.compiles
        del task
        if compiles:
            torch._dynamo.reset()  # nobody else in this process has compiled code, and the next contest has its own
        if cuda_in_use():
            gc.collect()
            torch.cuda.empty_cache()
        return {"is": "result", **result_data(contest)}

    def _read(self, files: Any) -> Task:
        try:
            load_files(files)
            # Opened for each task anew: a buffer would still hold the one before.
            with open(self._file, "rb", closefd=False) as file:
                return unpack(file)
        except Unportable:
            raise
        except (Exception, SystemExit) as error:
            # It was imported, or made, in the run's process: what fails here is of this one.
            raise Unportable(f"it cannot be read in a worker process ({_text(error)})") from error

    def _tell(self, event: Event) -> None:
        """Send an event, and wait until the listener has had it: its drawing must not run beside the timing."""
        at = None if self._watch is None else self._watch.at
        if isinstance(event, TrialRefused) and event.cause in OF_MEMORY:
            # It may still hold what it took: the others must not run short of it.
            raise Fault(event.candidate, event.stage, self._memory(event.reason, event.cause), event.cause)
        if self._watch is not None:
            self._watch.nobody()
        self._send({"is": "event", "event": event_data(event)})
        self._lines.readline()
        if at is not None and self._watch is not None:
            self._watch.begins(*at)

    def _send(self, message: Mapping[str, Any]) -> None:
        _forked()
        # What was printed belongs to whoever printed it: out with it before the next one's turn.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a candidate may have put anything there
                stream.flush()
        send(self._connection, **message)

    def _raised(self, error: BaseException) -> dict[str, Any]:
        text = _text(error)
        at = None if self._watch is None else self._watch.at
        if isinstance(error, TuneError):
            return {"is": "error", "reason": str(error), "raised": True}
        if at is not None and at[0] != ORIGINAL and not isinstance(error, Exception):
            told = TrialRefused(candidate=at[0], stage=at[1], reason=f"raised {text}", cause="raised")
            return {"is": "fault", "event": event_data(told)}
        cause = cause_of(error)
        if cause in OF_MEMORY:
            # Of the device's memory the run's process holds the model already; of the host's the limit is the run's.
            return {"is": "error", "reason": self._memory(text, cause), "raised": cause == "out of device memory"}
        return {"is": "error", "reason": f"raised {text}", "raised": isinstance(error, Exception)}

    def _memory(self, reason: str, cause: Cause) -> str:
        if cause == "out of device memory":
            limit = "" if self._device_bytes is None else f" (limit {self._device_bytes / 2**30:.1f} GiB)"
            return f"took more device memory than allowed{limit}: {reason:.160}"
        limit = "" if self._host_bytes is None else f" (limit {self._host_bytes / 2**30:.1f} GiB)"
        return f"took more host memory than allowed{limit}: {reason:.160}"


def _text(error: BaseException) -> str:
    # Of a stranger's exception even its text may raise.
    name = type(error).__name__
    try:
        lines = str(error).strip().splitlines()
    except Exception as unreadable:
        return f"{name}: its text cannot be read ({type(unreadable).__name__})"
    return f"{name}: {lines[0]}" if lines else name


def _broken_device() -> str:
    """Why the device takes no more work: a kernel that went astray is told of late, and to whoever asks next."""
    if not cuda_in_use():
        return ""
    try:
        torch.cuda.synchronize()
    except Exception as error:  # torch has had several types for it
        return _text(error)
    return ""


def _forked() -> bool:
    """Whether the process was doubled. The double itself ends here: it would run the contest once more."""
    if os.getpid() != _pid:
        _exit(1)
    return bool(_forks)


def _die_with(parent: int) -> None:
    """End with the run, however that ends. Where the system cannot see to it, the closed connection does."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        _exit(1)
