"""Contests in a worker process: what a candidate does to its process is its rejection, and nobody else's trouble."""

from __future__ import annotations

import threading
import weakref
from dataclasses import replace
from typing import Any

from twinkle_tune.contest.call import digest_of
from twinkle_tune.contest.events import TrialRefused, TrialStarted
from twinkle_tune.contest.selected import ALL_REFUSED, cut_off, with_cut_off
from twinkle_tune.errors import TuneError
from twinkle_tune.outcome import Rejection, Trial, Untimed
from twinkle_tune.profile.schema import Contest, Found
from twinkle_tune.slot import ORIGINAL, Candidate, Slot
from twinkle_tune.tune.events import Listener, OriginalFailed, nobody
from twinkle_tune.tune.executor import Executor
from twinkle_tune.tune.held import Held
from twinkle_tune.tune.in_process import InProcess
from twinkle_tune.tune.job import Job, Once, Refused, answered
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.mark import NOBODY
from twinkle_tune.tune.package import Unportable, modules_of, pack
from twinkle_tune.tune.process import WorkerError, WorkerLost, WorkerProcess
from twinkle_tune.tune.task import Task
from twinkle_tune.tune.wire import event_of, result_of


class Isolated(Executor):
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
        self._hopeless: list[tuple[Slot, Candidate, Rejection | Untimed]] = []
        self._second: Isolated | None = None
        self._finalizer = weakref.finalize(self, Held.close, self._held)

    @property
    def pid(self) -> int | None:
        """The id of the worker process; None while there is none."""
        return None if self._held.worker is None else self._held.worker.pid

    def close(self) -> None:
        """End the worker processes. The next contest would start another."""
        self._held.close()
        if self._second is not None:
            self._second.close()

    def hold(self, task: Task, listener: Listener) -> Contest:
        """Hold a contest to its end; a second race in a second worker process, in which nobody's first race is run.

        Raises:
            WorkerError: the original ended the worker process, or no worker process can be started.
            TuneError: the original failed.
        """
        if task.again:
            if self._second is None:
                self._second = Isolated(self.limits)
            return self._second.hold(replace(task, again=False), listener)
        with self._lock:
            try:
                return self._run(task, listener)
            except BaseException:
                self._held.stop()
                raise
            finally:
                self._held.empty()

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
        job = Job(task=task, header=header, told=Once(listener))
        job.refused.update(self._known(job))
        tries, killed = 0, set[str]()
        while True:
            try:
                found = self._attempt(job, tuple(job.refused))
            except Unportable as why:
                self._held.stop()
                return _here(task, listener, str(why))
            except Refused as lost:
                job = self._replaced(job)
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

    def _replaced(self, job: Job) -> Job:
        """The job, after its worker process was lost: for the one of second races, where that stands ready.

        Second races then have a new one, so that nobody's first race was run there.
        """
        self._held.stop()
        second = self._second
        if second is None or second._held.worker is None or not second._held.worker.is_alive:
            return job
        self._held, second._held = second._held, self._held
        try:
            return replace(job, header=pack(job.task, self._held.file))
        except (Unportable, OSError):
            self._held, second._held = second._held, self._held
            return job

    def _refuse(self, job: Job, lost: Refused) -> None:
        outcome: Rejection | Untimed = Rejection(stage=lost.stage, reason=lost.reason, cause=lost.cause)
        if lost.by_budget:
            outcome = cut_off(lost.stage, lost.reason)
        job.refused[lost.candidate] = outcome
        if lost.stage == "load" or lost.by_budget:
            candidate = next(c for c in job.task.candidates if c.name == lost.candidate)
            self._hopeless.append((job.task.observation.slot, candidate, outcome))
        job.told(TrialRefused(candidate=lost.candidate, stage=lost.stage, reason=lost.reason, cause=lost.cause))

    def _guilty(self, job: Job, failure: str) -> list[Refused] | None:
        """Candidates beside which, alone in a new process, the original fails; None if it fails by itself.

        Raises:
            TuneError: the time is up; ``failure`` says what the original did.
        """
        names = [c.name for c in job.task.candidates if c.name != ORIGINAL and c.name not in job.refused]
        job.told(OriginalFailed(reason=failure, processes=1 + len(names)))
        quiet = replace(job, told=Once(nobody))
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
            except Refused as lost:
                if name is None:
                    return None
                own = lost.candidate == name
                reason = lost.reason if own else f"with it in the process the original {lost.reason}"
                guilty.append(Refused(name, lost.stage, reason, lost.cause if own else "meddled"))
            finally:
                self._held.stop()
        return guilty

    def _known(self, job: Job) -> dict[str, Rejection | Untimed]:
        """Those of whom an earlier contest knows that there is no hope: loading is the same for all, and takes long.

        So do those that a budget cut off, of which less is left now.
        """
        known = {
            candidate.name: outcome
            for candidate in job.task.candidates
            for slot, other, outcome in self._hopeless
            if slot == job.task.observation.slot and other == candidate
        }
        for name, outcome in known.items():
            job.told(TrialStarted(candidate=name))
            stage, cause = (outcome.stage, outcome.cause) if isinstance(outcome, Rejection) else ("load", "timeout")
            job.told(TrialRefused(candidate=name, stage=stage, reason=outcome.reason, cause=cause))
        return known

    def _worker(self, task: Task) -> WorkerProcess:
        """The worker process, ready. Nothing is timed while a process starts, so that two start side by side."""
        start = self.limits, task.terms.device, modules_of(task.observation)
        if self._ahead and self._second is None and len(task.candidates) > 1:
            self._second = Isolated(self.limits)
            self._held.begin(*start)
            self._second._held.ready(*start)
        return self._held.ready(*start)

    def _attempt(self, job: Job, without: tuple[str, ...]) -> Found:
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
                    found = answered(answer, names)
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
            by_budget = name != ORIGINAL and lost.cause == "timeout" and self.limits.is_by_budget(at.stage, at.limit_s)
            raise Refused(name, at.stage, lost.reason, lost.cause, killed=lost.killed, by_budget=by_budget) from lost


def _merged(task: Task, found: Found, refused: dict[str, Rejection | Untimed]) -> Contest:
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
    selection = with_cut_off(selection, everyone)
    return task.observation.contest(replace(found, trials=everyone, selection=selection))


def _here(task: Task, listener: Listener, why: str) -> Contest:
    contest = InProcess().hold(task, listener)
    note = f"{contest.selection.reason} (tried in the process of the run, not apart: {why})"
    return replace(contest, selection=replace(contest.selection, reason=note))
