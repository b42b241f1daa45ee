"""What the original itself does wrong in a contest is told there, and is no reason to end the run; a listener's is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twinkle_tune.contest.selected import INCONCLUSIVE
from twinkle_tune.errors import TuneError, in_a_line
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.schema import Contest, Found
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.events import Event, Listener
from twinkle_tune.tune.process import WorkerError
from twinkle_tune.tune.task import Task

_Found = TypeVar("_Found")


class _OwnError(BaseException):
    """An error of who listens: no candidate is to blame, so that nothing that catches a candidate's catches it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def telling_apart(listener: Listener, find: Callable[[Listener], _Found]) -> _Found:
    """What ``find`` gives, which gets the listener that it is to tell.

    Raises:
        Exception: what the listener raised, as it is, whatever errors ``find`` catches.
    """

    def tell(event: Event) -> None:
        try:
            listener(event)
        except Exception as error:
            raise _OwnError(error) from error

    try:
        return find(tell)
    except _OwnError as found:
        own = found.error
    raise own


class Hearing:
    """A listener whose own errors are known as such: they end a run."""

    def __init__(self, listener: Listener) -> None:
        """Around a listener."""
        self._listener = listener
        self.error: Exception | None = None

    def __call__(self, event: Event) -> None:
        """Tell the listener."""
        try:
            self._listener(event)
        except Exception as error:
            self.error = error
            raise


def unless_original_fails(task: Task, listener: Listener, held: Callable[[Listener], Contest]) -> Contest:
    """A contest as it is held; inconclusive, with the cause, where it raises.

    A candidate's errors are its rejections, so that what comes out of a contest is the original's doing: it cannot be
    called by itself, in a copy, in another process. ``held`` gets the listener that it is to tell.
    """
    hearing = Hearing(listener)
    try:
        return held(hearing)
    except WorkerError:
        raise  # what ends a worker process would end this one: the run has to be told otherwise
    except Exception as error:
        if error is hearing.error:
            raise
        why = str(error) if isinstance(error, TuneError) else f"the original raised {in_a_line(error, 300)}"
        lost = Selection(winner=ORIGINAL, reason=f"{INCONCLUSIVE}: {why}", status="inconclusive")
        return task.observation.contest(Found(trials=(), selection=lost))
