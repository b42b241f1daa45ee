"""Contests on their way through an executor: each asks for races and gets what came of them, until it is decided."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

from twinkle_tune.profile.schema import Contest
from twinkle_tune.tune.events import Listener
from twinkle_tune.tune.executor import Executor, only
from twinkle_tune.tune.task import Task

Result = TypeVar("Result")
Holding = Generator[Task, Contest, Contest]
"""A contest on its way: gives the race that it needs next, is sent that one's outcome, and returns its own."""


def hold_all(
    executor: Executor,
    holdings: Iterable[tuple[int, Holding]],
    listener: Listener,
    ended: Callable[[int, Contest], None],
) -> None:
    """Hold contests, as many at once as the executor has room for.

    Args:
        executor: where.
        holdings: each contest with the index of its tasks; taken as there is room.
        listener: told what happens.
        ended: gets each contest in the order of ``holdings``, as soon as those before it have ended; on Ctrl-C all that
            have ended.
    """
    going = _Going(holdings, ended)
    try:
        for index, contest in executor.run(going, listener):
            going.answer(index, contest)
    except KeyboardInterrupt:
        going.give_all()
        raise


def drive(executor: Executor, going: Generator[Task, Contest, Result], listener: Listener) -> Result:
    """What comes of a contest, one race after another."""
    answer: Contest | None = None
    while True:
        try:
            task = next(going) if answer is None else going.send(answer)
        except StopIteration as end:
            found: Result = end.value
            return found
        answer = only(executor, task, listener)


class _Going(Iterator[Task | None]):
    """The races that are asked for: those of contests that have begun come first."""

    def __init__(self, holdings: Iterable[tuple[int, Holding]], ended: Callable[[int, Contest], None]) -> None:
        self._new = iter(holdings)
        self._ended = ended
        self._asked = deque[Task]()
        self._going: dict[int, Holding] = {}
        self._over: dict[int, Contest] = {}

    def __next__(self) -> Task | None:
        while not self._asked:
            begun = next(self._new, None)
            if begun is None:
                if self._going.keys() <= self._over.keys():
                    raise StopIteration
                return None
            index, self._going[index] = begun
            self._go_on(index, None)
        return self._asked.popleft()

    def answer(self, index: int, contest: Contest) -> None:
        """What came of the race that a contest asked for."""
        self._go_on(index, contest)

    def give_all(self) -> None:
        """Give those that have ended, whether or not those before them have."""
        for index in [index for index in self._going if index in self._over]:
            self._give(index)

    def _go_on(self, index: int, answer: Contest | None) -> None:
        holding = self._going[index]
        try:
            self._asked.append(next(holding) if answer is None else holding.send(answer))
        except StopIteration as end:
            self._over[index] = end.value
            while self._going and (first := next(iter(self._going))) in self._over:
                self._give(first)

    def _give(self, index: int) -> None:
        contest = self._over.pop(index)
        del self._going[index]
        self._ended(index, contest)
