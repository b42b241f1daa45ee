"""Contests in a worker process: what a candidate does to its process is its rejection, and nobody else's trouble."""

from __future__ import annotations

import tempfile
import threading
import time
import weakref
from dataclasses import dataclass, replace
from types import TracebackType
from typing import IO, Any, Self

from twinkle_tune.errors import TuneError
from twinkle_tune.outcome import Rejection, Selection, Stage, Trial
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import ORIGINAL, Candidate, Slot
from twinkle_tune.tune.contest import InProcess
from twinkle_tune.tune.events import Listener, TrialRefused, TrialStarted
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.mark import NOBODY, Mark
from twinkle_tune.tune.package import Header, Unportable, pack
from twinkle_tune.tune.process import WorkerLost, WorkerProcess
from twinkle_tune.tune.task import Task
from twinkle_tune.tune.wire import event_of, result_of, stage_of


class Isolated:
    """Runs contests in a worker process that it starts for the first one and keeps for the others.

    A candidate that ends the process, hangs, takes too much memory or changes what all code of the process shares is
    refused with that reason; the worker is replaced and the contest run again without it. A contest of which a part
    is known to this process alone (a lambda, a class of ``__main__`` or of a notebook) is run in this process as a
    whole, and its selection says so.

    Use it as a context manager, or close it: the worker process then ends. It ends with this process in any case.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        """Nothing is started yet. ``limits``: None for the defaults."""
        self.limits = limits if limits is not None else Limits()
        self._held = _Held()
        self._lock = threading.Lock()
        self._unloadable: list[tuple[Slot, Candidate, Rejection]] = []
        self._finalizer = weakref.finalize(self, _Held.close, self._held)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The id of the worker process; None while there is none."""
        return None if self._held.worker is None else self._held.worker.pid

    def close(self) -> None:
        """End the worker process. The next contest would start another."""
        self._held.close()

    def run(self, task: Task, listener: Listener) -> Contest:
        """Run a contest to its end.

        Raises:
            TuneError: the original failed, or ended the worker process; or no worker process can be started.
        """
        with self._lock:
            try:
                return self._run(task, listener)
            except BaseException:
                self._held.stop()
                raise
            finally:
                self._held.empty()

    def _run(self, task: Task, listener: Listener) -> Contest:
        try:
            header = pack(task, self._held.file)
        except Unportable as why:
            return _here(task, listener, str(why))
        except OSError as error:
            raise TuneError(
                f"{task.observation.slot.target}: the call cannot be written to a temporary file for the worker "
                f"process ({error}); make room, point TMPDIR elsewhere, or profile with --in-process"
            ) from error
        began_s, told = time.monotonic(), _Once(listener)
        refused = self._known(task, told)
        suspicious = self._held.served
        while True:
            left_s = None if task.deadline_s is None else max(0.0, task.deadline_s - (time.monotonic() - began_s))
            try:
                trials, selection = self._attempt(task, header, tuple(refused), left_s, told)
            except Unportable as why:
                self._held.stop()
                return _here(task, listener, str(why))
            except _Refused as lost:
                self._held.stop()
                if lost.candidate == ORIGINAL and suspicious:
                    # Code of earlier contests is in that process too: perhaps it was theirs. Once more in a new one.
                    suspicious = False
                    continue
                if lost.candidate == ORIGINAL:
                    raise TuneError(
                        f"{task.observation.slot.target}: the original itself {lost.reason} (in the worker process, at "
                        f"stage {lost.stage!r}); profile with --in-process, or raise the limits"
                    ) from None
                suspicious = False
                rejection = Rejection(stage=lost.stage, reason=lost.reason)
                refused[lost.candidate] = rejection
                if lost.stage == "load":
                    candidate = next(c for c in task.candidates if c.name == lost.candidate)
                    self._unloadable.append((task.observation.slot, candidate, rejection))
                told(TrialRefused(candidate=lost.candidate, stage=lost.stage, reason=lost.reason))
                continue
            self._held.served = True
            return _merged(task, trials, selection, refused)

    def _known(self, task: Task, told: _Once) -> dict[str, Rejection]:
        """Those that could not be loaded in an earlier contest: loading is the same for all, hanging takes long."""
        known = {
            candidate.name: rejection
            for candidate in task.candidates
            for slot, other, rejection in self._unloadable
            if slot == task.observation.slot and other == candidate
        }
        for name, rejection in known.items():
            told(TrialStarted(candidate=name))
            told(TrialRefused(candidate=name, stage=rejection.stage, reason=rejection.reason))
        return known

    def _attempt(
        self, task: Task, header: Header, without: tuple[str, ...], left_s: float | None, told: _Once
    ) -> tuple[tuple[Trial, ...], Selection]:
        worker = self._held.ready(self.limits)
        names = tuple(candidate.name for candidate in task.candidates if candidate.name not in without)
        try:
            message: dict[str, Any] = {
                "path": header.path,
                "files": header.files,
                "original": header.original,
                "without": without,
                "deadline_s": left_s,
            }
            worker.send(message)
            while True:
                answer = worker.receive()
                try:
                    if answer["is"] == "result":
                        return result_of(answer)
                    found = _answered(answer, names)
                    event = event_of(answer["event"]) if found is None else None
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise WorkerLost(self._held.mark.get(), "wrote into the connection to the run") from error
                if found is not None:
                    raise found
                if event is not None:
                    told(event)
                    worker.send({})
        except WorkerLost as lost:
            at = lost.at
            name = names[at.candidate] if 0 <= at.candidate < len(names) else ORIGINAL
            if at.candidate == NOBODY:
                name = told.last if told.last in names else ORIGINAL
            raise _Refused(name, at.stage, lost.reason) from lost


class _Refused(Exception):
    """A candidate, or the original, after which the worker process is to be replaced."""

    def __init__(self, candidate: str, stage: Stage, reason: str) -> None:
        super().__init__(reason)
        self.candidate, self.stage, self.reason = candidate, stage, reason


class _Once:
    """A listener to which what a repeated contest says again is not told again."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._told: set[tuple[type, str]] = set()
        self.last = ORIGINAL

    def __call__(self, event: Any) -> None:
        name = getattr(event, "candidate", None)
        if name is not None:
            self.last = name
            if (type(event), name) in self._told:
                return
            self._told.add((type(event), name))
        self._listener(event)


@dataclass(slots=True)
class _Held:
    """What must be let go of, whatever happens: the process and two files that have no name."""

    worker: WorkerProcess | None = None
    served: bool = False
    _file: IO[bytes] | None = None
    _mark: Mark | None = None

    @property
    def file(self) -> IO[bytes]:
        """In which the worker finds its task. Without a name no other user can open it, and it goes with us."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()
        return self._file

    @property
    def mark(self) -> Mark:
        """Where the worker says who is at work."""
        if self._mark is None:
            self._mark = Mark()
        return self._mark

    def ready(self, limits: Limits) -> WorkerProcess:
        """The worker, or a new one: on Linux it ends with the thread that started it."""
        worker = self.worker
        if worker is not None and (not worker.is_alive or worker.thread != threading.get_ident()):
            self.stop()
        if self.worker is None:
            self.worker = WorkerProcess(limits, self.file, self.mark)
        return self.worker

    def stop(self) -> None:
        """End the worker process."""
        worker, self.worker, self.served = self.worker, None, False
        if worker is not None:
            worker.stop()

    def empty(self) -> None:
        """Give back the disk space of the last task."""
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    def close(self) -> None:
        """Let go of everything."""
        self.stop()
        file, mark = self._file, self._mark
        self._file = self._mark = None
        if file is not None:
            file.close()
        if mark is not None:
            mark.close()


def _answered(answer: dict[str, Any], names: tuple[str, ...]) -> Exception | None:
    """What an answer that is no result comes to; None for an event."""
    match answer["is"]:
        case "event":
            return None
        case "fault" if answer["candidate"] in names:
            return _Refused(answer["candidate"], stage_of(answer["stage"]), str(answer["reason"]))
        case "unportable":
            return Unportable(str(answer["reason"]))
        case "error":
            return _Refused(ORIGINAL, "first call", str(answer["reason"]))
    raise ValueError(f"no such answer: {answer!r:.80}")


def _merged(
    task: Task, trials: tuple[Trial, ...], selection: Selection, refused: dict[str, Rejection]
) -> Contest:
    """The worker's contest, with the trials of those that it was run without."""
    found = {trial.candidate: trial for trial in trials}
    everyone = tuple(
        Trial(candidate=c.name, source=c.source.kind, digest="", outcome=refused[c.name])
        if c.name in refused
        else found[c.name]
        for c in task.candidates
    )
    if refused and all(isinstance(t.outcome, Rejection) for t in everyone if t.candidate != ORIGINAL):
        selection = replace(selection, reason="every other candidate was refused")
    observation = task.observation
    return Contest(
        slot=observation.slot,
        instances=observation.instances,
        seen=observation.seen,
        workload=observation.workload,
        trials=everyone,
        selection=selection,
    )


def _here(task: Task, listener: Listener, why: str) -> Contest:
    contest = InProcess().run(task, listener)
    note = f"{contest.selection.reason} (tried in the process of the run, not apart: {why})"
    return replace(contest, selection=replace(contest.selection, reason=note))
