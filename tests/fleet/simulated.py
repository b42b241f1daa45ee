"""Devices that only exist as numbers: a plan runs through the code that hands out contests, by a clock of its own.

Races take random times, devices fail and come back, a few contests end every device that holds them, and whoever hands
out contests does so one after another.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from twinkle_tune.fleet.spread import Ended, Happened, Joined, Lost, Spread
from twinkle_tune.tune.holding import Holding, hold_all
from twinkle_tune.tune.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated.

    Attributes:
        contests, devices, kinds: how many.
        race_s: median of a race's length, which is lognormal with a spread of ``spread``.
        second: share of contests that have a second race, half as long.
        fails_s, back_s: mean times until a device fails, and until it is back.
        deadly: share of contests that end each device that holds them.
        hand_out_s: that the run's own process needs to send a race, one after another.
    """

    contests: int = 10_000
    devices: int = 64
    kinds: int = 1
    race_s: float = 20.0
    spread: float = 0.8
    second: float = 0.4
    fails_s: float = 3600.0
    back_s: float = 120.0
    deadly: float = 0.001
    hand_out_s: float = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What came of it: contests that ended, those of them that were given up, and shares of devices' time."""

    ended: int
    given_up: int
    failures: int
    races: int
    took_s: float
    busy: float
    useful: float


@dataclass(slots=True)
class Simulated:
    """The devices, as :class:`twinkle_tune.fleet.spread.Devices`."""

    plan: Plan
    chance: random.Random
    now_s: float = 0.0
    races: int = 0
    failures: int = 0
    busy_s: float = 0.0
    useful_s: float = 0.0
    up_s: float = 0.0
    _sent_s: float = 0.0
    _order: Iterator[int] = field(default_factory=itertools.count)
    _soon: list[tuple[float, int, str, str, int]] = field(default_factory=list)
    _began: dict[str, tuple[int, float]] = field(default_factory=dict)
    _up: dict[str, float] = field(default_factory=dict)
    _turn: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number in range(self.plan.devices):
            self._later(0.0, "joins", f"d{number}")

    def kind_of(self, device: str) -> str:
        """Its kind."""
        return f"kind {int(device[1:]) % self.plan.kinds}"

    def begin(self, device: str, task: Task) -> None:
        """A race begins once it has been sent; a deadly one ends its device in the middle."""
        assert device not in self._began, f"two contests at once on {device}"
        assert self.kind_of(device) == task.environment, f"{device} is of another kind"
        self._sent_s = max(self._sent_s, self.now_s) + self.plan.hand_out_s
        length_s = self.plan.race_s * self.chance.lognormvariate(0.0, self.plan.spread) * (0.5 if task.again else 1.0)
        self._began[device] = task.index, self._sent_s
        self.races += 1
        is_deadly = task.index % max(1, round(1 / self.plan.deadly)) == 0 if self.plan.deadly else False
        self._at(self._sent_s + length_s / 2 if is_deadly else self._sent_s + length_s, is_deadly, device)

    def wait(self) -> list[Happened]:
        """The next that happens."""
        if not self._soon:
            return []
        self.now_s, _, what, device, turn = heapq.heappop(self._soon)
        match what:
            case "joins":
                self._up[device] = self.now_s
                self._turn[device] = self._turn.get(device, 0) + 1
                self._later(self.chance.expovariate(1 / self.plan.fails_s), "fails", device)
                return [Joined(device=device, kind=self.kind_of(device))]
            case _ if turn != self._turn[device]:
                return []  # of a life before
            case "ends":
                self._held(device, useful=True)
                return [Ended(device=device, contest=_CONTEST)]
        self.failures += 1
        self._turn[device] += 1
        self._held(device, useful=False)
        self.up_s += self.now_s - self._up.pop(device)
        self._later(self.chance.expovariate(1 / self.plan.back_s), "joins", device)
        return [Lost(device=device, reason="simulated")]

    def stop(self) -> None:
        """Nothing is to be ended."""

    def why_none(self, kind: str) -> str:
        """Nobody asks."""
        return "simulated"

    def over(self) -> None:
        """The plan is over now."""
        self.up_s += sum(self.now_s - since_s for since_s in self._up.values())

    def _held(self, device: str, *, useful: bool) -> None:
        if device in self._began:
            held_s = max(0.0, self.now_s - self._began.pop(device)[1])
            self.busy_s += held_s
            self.useful_s += held_s if useful else 0.0

    def _at(self, when_s: float, is_deadly: bool, device: str) -> None:
        heapq.heappush(
            self._soon, (when_s, next(self._order), "fails" if is_deadly else "ends", device, self._turn[device])
        )

    def _later(self, after_s: float, what: str, device: str) -> None:
        heapq.heappush(
            self._soon, (self.now_s + after_s, next(self._order), what, device, self._turn.get(device, 0))
        )  # fmt: skip


_CONTEST: Any = SimpleNamespace(status="kept")
_OBSERVATION: Any = SimpleNamespace(contest=lambda found: SimpleNamespace(status=found.selection.status))


def simulate(plan: Plan, seed: int = 0) -> Ran:
    """Run a plan to its end."""
    chance = random.Random(seed)
    devices = Simulated(plan=plan, chance=chance)
    ended: dict[int, str] = {}

    def holding(index: int) -> Holding:
        kind = f"kind {index % plan.kinds}"
        task: Any = Task(observation=_OBSERVATION, candidates=(), terms=_OBSERVATION, index=index, environment=kind)
        contest = yield task
        if contest.status == "kept" and chance.random() < plan.second:
            again: Any = Task(
                observation=_OBSERVATION, candidates=(), terms=_OBSERVATION, index=index, environment=kind, again=True
            )
            contest = yield again
        return contest

    spread = Spread(devices, lambda: devices.now_s)
    hold_all(
        spread,
        ((index, holding(index)) for index in range(1, plan.contests + 1)),
        lambda event: None,
        lambda index, contest: ended.update({index: contest.status}),
    )
    devices.over()
    return Ran(
        ended=len(ended),
        given_up=sum(status == "inconclusive" for status in ended.values()),
        failures=devices.failures,
        races=devices.races,
        took_s=devices.now_s,
        busy=devices.busy_s / devices.up_s,
        useful=devices.useful_s / devices.up_s,
    )
