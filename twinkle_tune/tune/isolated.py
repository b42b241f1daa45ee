"""Contests in a worker process: what a candidate does to its process is its rejection, and nobody else's trouble."""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from twinkle_tune.cause import Cause
from twinkle_tune.contest.call import digest_of
from twinkle_tune.contest.events import TrialRefused, TrialStarted
from twinkle_tune.contest.selected import ALL_REFUSED
from twinkle_tune.errors import TuneError
from twinkle_tune.outcome import Phase, Rejection, Trial
from twinkle_tune.profile.schema import Contest, Found
from twinkle_tune.slot import ORIGINAL, Candidate, Slot
from twinkle_tune.tune.events import Listener, OriginalFailed, nobody
from twinkle_tune.tune.held import Held
from twinkle_tune.tune.in_process import InProcess
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.mark import NOBODY
from twinkle_tune.tune.package import Header, Unportable, modules_of, pack
from twinkle_tune.tune.process import WorkerError, WorkerLost, WorkerProcess
from twinkle_tune.tune.task import Task
from twinkle_tune.tune.wire import event_of, result_of


class Isolated:
    """Runs contests in a worker process that it starts for the first one and keeps for the others.

    A candidate that ends the process, hangs, takes too much memory or changes what all code of the process shares is
    refused with that reason; the worker is replaced and the contest run again without it. A contest of which a part
    is known to this process alone (a lambda, a class of ``__main__`` or of a notebook) is run in this process as a
    whole, and its selection says so.

    Use it as a context manager, or close it: the worker process then ends. It ends with this process in any case.
    """

    def __init__(self, limits: Limits | None = None, *, ahead: bool = False) -> None:
        """Nothing is started yet. ``limits``: None for the defaults.

        ``ahead``: whether the process of second races starts along with the first one, which takes no longer.
        """
        self.limits = limits if limits is not None else Limits()
        self._held = Held()
        self._ahead = ahead
        self._lock = threading.Lock()
        self._unloadable: list[tuple[Slot, Candidate, Rejection]] = []
        self._second: Isolated | None = None
        self._finalizer = weakref.finalize(self, Held.close, self._held)

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
        """End the worker processes. The next contest would start another."""
        self._held.close()
        if self._second is not None:
            self._second.close()

    def run(self, task: Task, listener: Listener) -> Contest:
        """Run a contest to its end.

        Raises:
            WorkerError: the original ended the worker process, or no worker process can be started.
            TuneError: the original failed.
        """
        with self._lock:
            try:
                return self._run(task, listener)
            except BaseException:
                self._held.stop()
                raise
            finally:
                self._held.empty()

    def confirm(self, task: Task, listener: Listener) -> Contest:
        """As :meth:`run`, in a second worker process, in which nobody's first race is run."""
        if self._second is None:
            self._second = Isolated(self.limits)
        return self._second.run(task, listener)

    @property
    def elsewhere(self) -> str:
        """In another worker process."""
        return "in another process"

    def _run(self, task: Task, listener: Listener) -> Contest:
        try:
            header = pack(task, self._held.file)
        except Unportable as why:
            return _here(task, listener, str(why))
        except OSError as error:
            full = f"the call cannot be written to a temporary file ({error}); make room, or point TMPDIR elsewhere"
            return _here(task, listener, full)
        job = _Job(task=task, header=header, told=_Once(listener))
        job.refused.update(self._known(job))
        tries, killed = 0, set[str]()
        while True:
            try:
                found = self._attempt(job, tuple(job.refused))
            except Unportable as why:
                self._held.stop()
                return _here(task, listener, str(why))
            except _Refused as lost:
                self._held.stop()
                if lost.killed and lost.candidate not in killed:
                    killed.add(lost.candidate)  # the system may have chosen it for what others took; not twice
                    continue
                if lost.candidate != ORIGINAL:
                    self._refuse(job, lost)
                    continue
                # Was it the original? A rival that wrote where it should not have may be felt by others.
                tries += 1
                guilty = self._guilty(job, lost.reason)
                if guilty is None and lost.raised:
                    # Here it has run: the worker lacks something, such as room on the device beside the model.
                    return _here(task, job.told, f"in a worker process the original {lost.reason}")
                if guilty is None or (not guilty and tries > 1):
                    raise WorkerError(
                        f"{task.observation.slot.target}: the original itself {lost.reason} (in the worker process, at "
                        f"stage {lost.stage!r}); profile with --in-process, or raise the limits"
                    ) from None
                for each in guilty:
                    self._refuse(job, each)
                continue
            return _merged(task, found, job.refused)

    def _refuse(self, job: _Job, lost: _Refused) -> None:
        rejection = Rejection(stage=lost.stage, reason=lost.reason, cause=lost.cause)
        job.refused[lost.candidate] = rejection
        if lost.stage == "load":
            candidate = next(c for c in job.task.candidates if c.name == lost.candidate)
            self._unloadable.append((job.task.observation.slot, candidate, rejection))
        job.told(TrialRefused(candidate=lost.candidate, stage=lost.stage, reason=lost.reason, cause=lost.cause))

    def _guilty(self, job: _Job, failure: str) -> list[_Refused] | None:
        """Candidates beside which, alone in a new process, the original fails; None if it fails by itself.

        Raises:
            TuneError: the time is up; ``failure`` says what the original did.
        """
        names = [c.name for c in job.task.candidates if c.name != ORIGINAL and c.name not in job.refused]
        job.told(OriginalFailed(reason=failure, processes=1 + len(names)))
        quiet = replace(job, told=_Once(nobody))
        guilty = []
        for name in (None, *names):
            without = tuple(other for other in (*names, *job.refused) if other != name)
            if job.left_s == 0:
                # A worker that starts with a GPU takes seconds, and there is one for each candidate.
                raise TuneError(
                    f"the original {failure} in the worker process, and the time budget left no time to find out "
                    "beside which candidate; raise the budget, or profile with --in-process"
                )
            try:
                self._attempt(quiet, without)
            except _Refused as lost:
                if name is None:
                    return None
                own = lost.candidate == name
                reason = lost.reason if own else f"with it in the process the original {lost.reason}"
                guilty.append(_Refused(name, lost.stage, reason, lost.cause if own else "meddled"))
            finally:
                self._held.stop()
        return guilty

    def _known(self, job: _Job) -> dict[str, Rejection]:
        """Those that could not be loaded in an earlier contest: loading is the same for all, hanging takes long."""
        known = {
            candidate.name: rejection
            for candidate in job.task.candidates
            for slot, other, rejection in self._unloadable
            if slot == job.task.observation.slot and other == candidate
        }
        for name, rejection in known.items():
            job.told(TrialStarted(candidate=name))
            job.told(
                TrialRefused(candidate=name, stage=rejection.stage, reason=rejection.reason, cause=rejection.cause)
            )
        return known

    def _worker(self, task: Task) -> WorkerProcess:
        """The worker process, ready. Nothing is timed while a process starts, so that two start side by side."""
        start = self.limits, task.terms.device, modules_of(task.observation)
        if self._ahead and self._second is None and len(task.candidates) > 1:
            self._second = Isolated(self.limits)
            self._held.begin(*start)
            self._second._held.ready(*start)
        return self._held.ready(*start)

    def _attempt(self, job: _Job, without: tuple[str, ...]) -> Found:
        worker, header, told = self._worker(job.task), job.header, job.told
        told.last = ORIGINAL
        names = tuple(c.name for c in job.task.candidates if c.name not in without)
        try:
            message: dict[str, Any] = {
                "path": header.path,
                "files": header.files,
                "original": header.original,
                "without": without,
                "deadline_s": job.left_s,
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
                    raise WorkerLost(
                        self._held.mark.get(), "wrote into the connection to the run", "meddled"
                    ) from error
                if found is not None:
                    raise found
                if event is not None:
                    worker.forget_output()
                    told(event)
                    worker.send({})
        except WorkerLost as lost:
            at = lost.at
            name = names[at.candidate] if 0 <= at.candidate < len(names) else ORIGINAL
            if at.candidate == NOBODY:
                name = told.last if told.last in names else ORIGINAL
            raise _Refused(name, at.stage, lost.reason, lost.cause, killed=lost.killed) from lost


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A contest on its way: what is sent, who hears of it, and who was refused so far."""

    task: Task
    header: Header
    told: _Once
    refused: dict[str, Rejection] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float | None:
        """Seconds of the task's time that are left."""
        deadline_s = self.task.deadline_s
        return None if deadline_s is None else max(0.0, deadline_s - (time.monotonic() - self.began_s))


class _Refused(Exception):
    """A candidate, or the original, after which the worker process is to be replaced."""

    def __init__(
        self, candidate: str, stage: Phase, reason: str, cause: Cause, *, raised: bool = False, killed: bool = False
    ) -> None:
        """``raised``: it raised an error, after which the process still stood; ``killed``: by SIGKILL."""
        super().__init__(reason)
        self.candidate, self.stage, self.reason, self.cause = candidate, stage, reason, cause
        self.raised, self.killed = raised, killed


class _Once:
    """A listener to which what a repeated contest says again is not told again."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._told: set[tuple[type, str]] = set()
        self.last = ORIGINAL

    def __call__(self, event: Any) -> None:
        name = getattr(event, "candidate", None)
        self.last = name or ORIGINAL  # in the race it is everybody's turn
        if name is not None:
            if (type(event), name) in self._told:
                return
            self._told.add((type(event), name))
        self._listener(event)


def _answered(answer: dict[str, Any], names: tuple[str, ...]) -> Exception | None:
    """What an answer that is no result comes to; None for an event."""
    match answer["is"]:
        case "event":
            return None
        case "fault":
            told = event_of(answer["event"])
            if isinstance(told, TrialRefused) and told.candidate in names:
                return _Refused(told.candidate, told.stage, told.reason, told.cause)
        case "unportable":
            return Unportable(str(answer["reason"]))
        case "error":
            return _Refused(ORIGINAL, "first call", str(answer["reason"]), "raised", raised=bool(answer["raised"]))
    raise ValueError(f"no such answer: {answer!r:.80}")


def _merged(task: Task, found: Found, refused: dict[str, Rejection]) -> Contest:
    """The worker's contest, with the trials of those that it was run without."""
    there = {trial.candidate: trial for trial in found.trials}
    selection = found.selection
    original = task.observation.occurrence.original
    everyone = tuple(
        Trial(
            candidate=c.name,
            source=c.source.kind,
            digest=digest_of(c, task.observation.slot, original),
            outcome=refused[c.name],
        )
        if c.name in refused
        else there[c.name]
        for c in task.candidates
    )
    is_told = selection.status == "inconclusive"  # of those that the worker did try
    if refused and not is_told and all(isinstance(t.outcome, Rejection) for t in everyone if t.candidate != ORIGINAL):
        selection = replace(selection, reason=ALL_REFUSED, status="all refused")
    return task.observation.contest(replace(found, trials=everyone, selection=selection))


def _here(task: Task, listener: Listener, why: str) -> Contest:
    contest = InProcess().run(task, listener)
    note = f"{contest.selection.reason} (tried in the process of the run, not apart: {why})"
    return replace(contest, selection=replace(contest.selection, reason=note))
