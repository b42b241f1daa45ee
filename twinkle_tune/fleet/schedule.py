"""Which contest goes to which device. Pure: it is told what happens and says what is to be done."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

MOST_TRIES = 3
"""Devices on which a contest is begun at most: after its first one is lost it is tried elsewhere twice."""


@dataclass(slots=True)
class Schedule:
    """Devices with what each holds, and the contests that wait for one.

    A device holds one contest at a time, of its own kind. A contest whose device was lost goes before those that were
    never begun, and to another device where there is one of its kind.
    """

    _kinds: dict[str, str] = field(default_factory=dict)
    _held: dict[str, int] = field(default_factory=dict)
    _waiting: dict[int, str] = field(default_factory=dict)
    _lost: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def devices(self) -> dict[str, str]:
        """The devices that are there, each with its kind."""
        return dict(self._kinds)

    @property
    def held(self) -> dict[str, int]:
        """The contests that are being held, by their devices."""
        return dict(self._held)

    @property
    def has_room(self) -> bool:
        """Whether one contest more would find a device, if it is of that one's kind."""
        return len(self._kinds) - len(self._held) > len(self._waiting)

    def join(self, device: str, kind: str) -> None:
        """A device is there, and free."""
        self._kinds[device] = kind

    def ask(self, contest: int, kind: str) -> None:
        """A contest wants a device of a kind."""
        self._waiting[contest] = kind

    def assign(self) -> list[tuple[int, str]]:
        """The contests that are to be begun now, each on its device."""
        begun = []
        free = [device for device in self._kinds if device not in self._held]
        for contest, kind in sorted(self._waiting.items(), key=lambda item: -len(self._lost.get(item[0], ()))):
            if not free:
                break
            device = self._device_for(contest, kind, free)
            if device is not None:
                free.remove(device)
                del self._waiting[contest]
                self._held[device] = contest
                begun.append((contest, device))
        return begun

    def done(self, device: str) -> int:
        """The device has ended its contest, which is given back, and is free."""
        contest = self._held.pop(device)
        self._lost.pop(contest, None)
        return contest

    def leave(self, device: str) -> int | None:
        """The device is lost: the contest that it held, which is now :meth:`ask`ed for again or given up, if any."""
        self._kinds.pop(device, None)
        contest = self._held.pop(device, None)
        if contest is not None:
            self._lost[contest].append(device)
        return contest

    def may_go_on(self, contest: int) -> bool:
        """Whether a contest that was lost is tried once more."""
        return len(self._lost[contest]) < MOST_TRIES

    def places(self, contest: int) -> tuple[str, ...]:
        """The devices that were lost while they held a contest."""
        return tuple(self._lost.get(contest, ()))

    def give_up(self, contest: int) -> None:
        """A contest is tried no more."""
        self._lost.pop(contest, None)

    def is_stuck(self) -> bool:
        """Whether contests wait, and no device is there that could ever take one of them."""
        return bool(self._waiting) and not self._held and not set(self._waiting.values()) & set(self._kinds.values())

    def _device_for(self, contest: int, kind: str, free: list[str]) -> str | None:
        before = self._lost.get(contest, ())
        others = any(each == kind and device not in before for device, each in self._kinds.items())
        fit = (d for d in free if self._kinds[d] == kind and not (others and d in before))
        return next(fit, None)
