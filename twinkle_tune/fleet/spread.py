"""Contests on many devices at once: handed out, listened to, and begun elsewhere where a device is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from twinkle_tune.contest.selected import INCONCLUSIVE
from twinkle_tune.errors import TuneError
from twinkle_tune.fleet.schedule import Schedule
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.schema import Contest, Found
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.events import ContestLost, ContestPlaced, Event, Listener
from twinkle_tune.tune.executor import Executor, only
from twinkle_tune.tune.task import Task

PATIENCE_S = 60.0
"""So long a run waits for a device where all are lost: a node may come back, another one may join."""


class NoDeviceError(TuneError):
    """No device is there on which the contests of a run may be held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A device is there and free."""

    device: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Something happened in the contest that a device holds."""

    device: str
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A device has ended its contest; None where the contest cannot be sent there at all, with the reason."""

    device: str
    contest: Contest | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A device is lost, with the contest that it held."""

    device: str
    reason: str


Happened = Joined | Told | Ended | Lost


class Devices(Protocol):
    """Devices as one cluster has them."""

    def begin(self, device: str, task: Task) -> None:
        """Begin a contest on a device. Whatever goes wrong is told by :meth:`wait`."""

    def wait(self) -> list[Happened]:
        """What has happened, after a moment if nothing has; devices that join at any time."""

    def stop(self) -> None:
        """End whatever is being held."""

    def why_none(self, kind: str) -> str:
        """What is there in the place of devices of a kind, for people."""


class Spread(Executor):
    """Runs contests on all devices that fit, one at a time on each.

    A contest whose device is lost is begun on another one, at most twice; then it is inconclusive. Those that have
    ended stay ended.
    """

    in_order = False

    def __init__(self, devices: Devices, now_s: Callable[[], float] = time.monotonic) -> None:
        """``now_s`` gives seconds of a clock that never goes back."""
        self.devices = devices
        self._now_s = now_s
        self.schedule = Schedule()

    @property
    def elsewhere(self) -> str:
        """In another worker process of whichever device is free."""
        return "in another process"

    def hold(self, task: Task, listener: Listener) -> Contest:
        """Hold one contest, on any device that fits."""
        return only(self, task, listener)

    def run(self, tasks: Iterable[Task | None], listener: Listener) -> Iterator[tuple[int, Contest]]:
        """As :meth:`Executor.run`; contests end in any order.

        Raises:
            NoDeviceError: no device of the kind is there, or all were lost and none has come back.
        """
        source, asked = iter(tasks), dict[int, Task]()
        stuck_s: float | None = None
        try:
            while self._take(source, asked):
                for index, device in self.schedule.assign():
                    listener(ContestPlaced(index=index, device=device))
                    self.devices.begin(device, asked[index])
                for happened in self.devices.wait():
                    found = self._heard(happened, asked, listener)
                    if found is not None:
                        yield found
                stuck_s = self._stuck_since(stuck_s, asked)
        finally:
            if asked:
                self.close()

    def close(self) -> None:
        """Let go of all devices. The next contest would ask for them again."""
        self.devices.stop()
        self.schedule = Schedule()

    def _take(self, source: Iterator[Task | None], asked: dict[int, Task]) -> bool:
        """Take as many tasks as there is room for; whether anything is still to be waited for."""
        while self.schedule.has_room or not asked:
            try:
                task = next(source)
            except StopIteration:
                break
            if task is None:
                break
            asked[task.index] = task
            self.schedule.ask(task.index, task.environment)
        return bool(asked)

    def _heard(self, happened: Happened, asked: dict[int, Task], listener: Listener) -> tuple[int, Contest] | None:
        """What an index has come to, if it has."""
        match happened:
            case Joined(device=device, kind=kind):
                self.schedule.join(device, kind)
            case Told(event=event):
                listener(event)
            case Ended(device=device, contest=contest, reason=reason):
                index = self.schedule.done(device)
                task = asked.pop(index)
                return index, contest if contest is not None else undecided(task, reason)
            case Lost(device=device, reason=reason):
                lost = self.schedule.leave(device)
                if lost is not None:
                    return self._lost(lost, device, reason, asked, listener)
        return None

    def _lost(
        self, index: int, device: str, reason: str, asked: dict[int, Task], listener: Listener
    ) -> tuple[int, Contest] | None:
        goes_on = self.schedule.may_go_on(index)
        listener(ContestLost(index=index, device=device, reason=reason, goes_on=goes_on))
        if goes_on:
            self.schedule.ask(index, asked[index].environment)
            return None
        places = ", ".join(self.schedule.places(index))
        self.schedule.give_up(index)
        return index, undecided(asked.pop(index), f"each device that held it was lost ({places}); at last: {reason}")

    def _stuck_since(self, since_s: float | None, asked: dict[int, Task]) -> float | None:
        if not self.schedule.is_stuck():
            return None
        now_s = self._now_s()
        if since_s is not None and now_s - since_s > PATIENCE_S:
            kind = next(iter(asked.values())).environment
            raise NoDeviceError(
                f"no device for the contests of this run ({self.devices.why_none(kind)}), expected one of kind {kind}, "
                "as the machine that runs the command; what was finished is kept: go on with --resume"
            )
        return now_s if since_s is None else since_s


def undecided(task: Task, reason: str) -> Contest:
    """A contest of which nothing is known: the original stays."""
    why = reason.removeprefix(f"{INCONCLUSIVE}: ")
    lost = Selection(winner=ORIGINAL, reason=f"{INCONCLUSIVE}: {why}", status="inconclusive")
    return task.observation.contest(Found(trials=(), selection=lost))
