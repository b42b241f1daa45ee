"""Contests on many devices: none is lost, none on the wrong device or beside another, whatever devices do."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fleet.simulated import Plan, Simulated, simulate
from twinkle_tune.fleet.schedule import Schedule
from twinkle_tune.fleet.spread import Ended, Happened, Joined, Lost, NoDeviceError, Spread
from twinkle_tune.profile.schema import Contest, Found
from twinkle_tune.tune.events import ContestLost, ContestPlaced, Event, nobody
from twinkle_tune.tune.holding import Holding, hold_all
from twinkle_tune.tune.task import Task

SMALL = Plan(contests=400, devices=12, kinds=2, fails_s=400.0, back_s=30.0, deadly=0.01)


@pytest.mark.parametrize("seed", range(20))
def test_no_contest_is_lost_whatever_fails(seed: int) -> None:
    """Each ends once; only the deadly ones are given up. (A device of another kind or in use is an error there.)"""
    ran = simulate(SMALL, seed)
    assert ran.ended == 400
    assert ran.failures > 12
    assert 4 <= ran.given_up <= 8


def test_devices_are_kept_busy() -> None:
    """At least nine tenths of the time that devices are there, with the failures of a bad day."""
    assert simulate(Plan(contests=2_000), seed=1).busy >= 0.9


def test_a_simulation_sees_two_contests_on_one_device_and_a_wrong_kind() -> None:
    """What holds above is asked for: a device in use, or of another kind, is refused there."""
    devices = Simulated(plan=Plan(devices=2, kinds=2), chance=random.Random(0))
    devices.wait()
    devices.begin("d0", task(1, "kind 0"))
    with pytest.raises(AssertionError, match="two contests at once on d0"):
        devices.begin("d0", task(2, "kind 0"))
    with pytest.raises(AssertionError, match="d1 is of another kind"):
        devices.begin("d1", task(3, "kind 0"))


def task(index: int, kind: str = "k") -> Task:
    """A contest of nothing."""
    unknown: Any = SimpleNamespace(contest=lambda found: found)
    return Task(observation=unknown, candidates=(), terms=unknown, index=index, environment=kind)


class Script:
    """Devices that do what a script says: what happens at each wait, in turn; what was begun is noted."""

    def __init__(self, *happens: list[Happened]) -> None:
        self.happens = [*happens]
        self.begun: list[tuple[int, str]] = []
        self.stopped = 0

    def begin(self, device: str, task: Task) -> None:
        """Note it."""
        self.begun.append((task.index, device))

    def wait(self) -> list[Happened]:
        """The next."""
        return self.happens.pop(0) if self.happens else []

    def stop(self) -> None:
        """Note it."""
        self.stopped += 1

    def why_none(self, kind: str) -> str:
        """Why."""
        return "all gone"


def joined(*devices: str) -> list[Happened]:
    """They are there."""
    return [Joined(device=device, kind="k") for device in devices]


FOUND: Any = SimpleNamespace(trials=(1,))


def ended(device: str) -> Happened:
    """It is done with what it held."""
    return Ended(device=device, contest=FOUND)


def test_a_contest_whose_device_is_lost_is_tried_elsewhere_twice() -> None:
    """On a device that has not lost it, as long as there is one; after three it is inconclusive and says where."""
    devices = Script(
        joined("a", "b"),
        [Lost(device="a", reason="node gone")],
        joined("a"),
        [Lost(device="b", reason="node gone")],
        [Lost(device="a", reason="worker killed")],
        [],
    )
    events: list[Event] = []
    ((index, contest),) = Spread(devices).run([task(5)], events.append)
    found: Any = contest
    assert (index, isinstance(found, Found), found.selection.status) == (5, True, "inconclusive")
    assert "(a, b, a); at last: worker killed" in found.selection.reason
    assert devices.begun == [(5, "a"), (5, "b"), (5, "a")]
    assert [event.goes_on for event in events if isinstance(event, ContestLost)] == [True, True, False]
    assert [event.device for event in events if isinstance(event, ContestPlaced)] == ["a", "b", "a"]


def test_what_was_lost_comes_before_what_was_never_begun() -> None:
    """The contests that have ended stay ended, and the lost one is the next to begin."""
    devices = Script(
        joined("a", "b"), [ended("b")], [Lost(device="a", reason="gone")], [ended("b")], [ended("b")], [ended("b")]
    )
    found = [index for index, _ in Spread(devices).run([task(1), task(2), task(3), task(4)], nobody)]
    assert devices.begun == [(1, "a"), (2, "b"), (3, "b"), (1, "b"), (4, "b")]
    assert found == [2, 3, 1, 4]


def test_without_any_device_it_is_an_error_after_a_while() -> None:
    """It says what is there, which kind is wanted, and how to go on."""
    time_s = iter(range(0, 10_000, 25))
    spread = Spread(Script(joined("a"), [Lost(device="a", reason="gone")]), lambda: next(time_s))
    with pytest.raises(NoDeviceError, match=r"all gone\), expected one of kind k.*go on with --resume"):
        list(spread.run([task(1)], nobody))


def test_a_device_of_another_kind_gets_nothing() -> None:
    """It stays idle, however many contests wait."""
    schedule = Schedule()
    schedule.join("other", "another kind")
    schedule.ask(1, "k")
    assert schedule.assign() == []
    assert schedule.is_stuck()
    schedule.join("right", "k")
    assert schedule.assign() == [(1, "right")]


def test_ctrl_c_gives_what_has_ended() -> None:
    """Also contests that ended before one that was begun earlier; devices are let go."""

    class Pressed(Script):
        def wait(self) -> list[Happened]:
            """Ctrl-C at the end of the script."""
            if not self.happens:
                raise KeyboardInterrupt
            return super().wait()

    devices = Pressed(joined("a", "b"), [ended("b")], [ended("b")])
    got: list[int] = []

    def holding(index: int) -> Holding:
        return (yield task(index))

    def note(index: int, contest: Contest) -> None:
        got.append(index)

    with pytest.raises(KeyboardInterrupt):
        hold_all(Spread(devices), ((index, holding(index)) for index in range(1, 9)), nobody, note)
    assert got == [2, 3]
    assert devices.stopped == 1


def test_contests_are_given_in_their_order_where_they_end_in_another() -> None:
    """What is decided by those before does not depend on which device was faster."""
    devices = Script(joined("a", "b"), [ended("b")], [ended("b"), ended("a")])
    got: list[int] = []

    def holding(index: int) -> Holding:
        return (yield task(index))

    hold_all(Spread(devices), ((i, holding(i)) for i in (1, 2, 3)), nobody, lambda index, contest: got.append(index))
    assert got == [1, 2, 3]
