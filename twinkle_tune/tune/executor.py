"""Where contests are run: what this process, a worker process and the devices of a cluster have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from twinkle_tune.contest.events import RoundTimed, TrialRefused, TrialStarted
from twinkle_tune.profile.schema import Contest
from twinkle_tune.tune.events import Event, Listener, OriginalFailed
from twinkle_tune.tune.original import unless_original_fails
from twinkle_tune.tune.task import Task


class Executor(ABC):
    """Runs contests, and gives them back as they end, each with the environment that it was held in.

    Attributes:
        in_order: whether they end one by one, in the order in which they were asked for.
    """

    in_order = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    @abstractmethod
    def elsewhere(self) -> str:
        """Where the second race of a winner is held, in words: "in another process"."""

    @abstractmethod
    def hold(self, task: Task, listener: Listener) -> Contest:
        """Hold one contest to its end: what goes wrong in a candidate is its rejection, in the original an error."""

    def close(self) -> None:  # noqa: B027
        """Let go of what contests were held in; nothing, where that is the caller's own process."""

    def run(self, tasks: Iterable[Task | None], listener: Listener) -> Iterator[tuple[int, Contest]]:
        """Run contests: one after another, where a place to run them does not say otherwise.

        Args:
            tasks: taken one by one, as there is room. None says that there is nothing to do until another contest
                has ended: whoever gets that one may ask for more.
            listener: told what happens, with the index of the contest that it happens in.

        Yields:
            The index of a task and its contest, which is inconclusive where the original fails in it.
        """
        for task in tasks:
            if task is not None:
                yield task.index, unless_original_fails(task, heard(task, listener), partial(self.hold, task))


def only(executor: Executor, task: Task, listener: Listener) -> Contest:
    """The contest of one task."""
    ((_, contest),) = executor.run([task], listener)
    return contest


def heard(task: Task, listener: Listener) -> Listener:
    """Who is told what happens in a contest: its index goes with it. Of a second race there are the rounds alone."""

    def told(event: Event) -> None:
        match event:
            case RoundTimed():
                listener(replace(event, index=task.index))
            case TrialStarted() | TrialRefused() | OriginalFailed() if not task.again:
                listener(replace(event, index=task.index))

    return told
