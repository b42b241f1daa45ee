"""What the processes of a job tell each other while they tune together, so that each decides the same.

All run the same code. Wherever what they meet may differ (a time, a verdict, an error) each tells it, in the same
order, and goes on by what all have told. What one of them may leave early is a part (:func:`parts`): whoever
leaves it, by an error or with a result, tells so in place of what the others tell just then, and those leave it as
well. So none waits for one that is gone. Where they find that they do different things, all stop.

A process alone tells nobody, and goes on by what it met itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from twinkle_tune.errors import PeerError, TuneError, in_a_line, is_by_chance

Value = TypeVar("Value")
Path = tuple[str, ...]
"""The parts that a process is in, the outermost first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one process tells: something met (``what``) on its way, or that it leaves the last part of its path."""

    kind: Literal["tells", "ends", "raises"]
    path: Path
    what: str
    value: Any
    now_s: float
    by_chance: bool = False


Gather = Callable[[Said], list[Said]]
"""Gives what all processes told, in the order of their ranks."""


class _Left(BaseException):
    """One has left a part; () for all that they do, since they do different things. No candidate catches it."""

    def __init__(self, path: Path, said: Sequence[Said]) -> None:
        super().__init__(path)
        self.path, self.said = path, said


class Peers:
    """The processes that tune together, as one of them sees them.

    Attributes:
        rank: its number.
        now_s: rank 0's time when all told something last. It stands still in between, so that all decide by the same.
    """

    def __init__(self, gather: Gather, rank: int) -> None:
        self._gather, self.rank = gather, rank
        self._path: Path = ()
        self.now_s = time.monotonic()

    def tell(self, what: str, mine: Value) -> list[Value]:
        """What each met."""
        said = self._say("tells", what, mine)
        if all((each.kind, each.path, each.what) == ("tells", self._path, what) for each in said):
            return [each.value for each in said]
        raise _Left(_left(said), said)

    def part(self, name: str, find: Callable[[], Value]) -> list[Value | None]:
        """What each found in a part of the way; None for those that another one's result kept from it.

        Raises:
            PeerError: another one raised in it; of this one its own error is raised.
        """
        outside, met = self._path, None
        path = self._path = (*outside, name)
        try:
            try:
                mine = find()
            except _Left as left:
                if left.path != path:
                    raise
                said = left.said
            except BaseException as error:  # Ctrl-C as well: the others wait
                met = error
                said = self._say("raises", "", in_a_line(error, 400), by_chance=is_by_chance(error))
            else:
                said = self._say("ends", "", mine)
        finally:
            self._path = outside
        if _left(said) != path:
            raise _Left(_left(said), said) from met
        if met is not None:
            raise met
        for rank, each in enumerate(said):
            if each.path == path and each.kind == "raises":
                raise PeerError(f"rank {rank} of {len(said)}: {each.value}", by_chance=each.by_chance)
        return [each.value if each.path == path and each.kind == "ends" else None for each in said]

    def _say(
        self, kind: Literal["tells", "ends", "raises"], what: str, value: object, *, by_chance: bool = False
    ) -> list[Said]:
        now_s = time.monotonic()
        mine = Said(kind=kind, path=self._path, what=what, value=value, now_s=now_s, by_chance=by_chance)
        said = self._gather(mine)
        self.now_s = said[0].now_s
        return said


def _left(said: Sequence[Said]) -> Path:
    """The outermost part that one has left; () where the others are not in it, or none has left any."""
    left = min((each.path for each in said if each.kind != "tells"), key=len, default=())
    return left if all(each.path[: len(left)] == left for each in said) else ()


_PEERS: ContextVar[Peers | None] = ContextVar("peers", default=None)


def peers() -> Peers | None:
    """Those that this process tunes together with; None where it is alone."""
    return _PEERS.get()


@contextmanager
def among(those: Peers | None) -> Iterator[None]:
    """Tune together with them; None for alone."""
    before = _PEERS.set(those)
    try:
        yield
    finally:
        _PEERS.reset(before)


def whole(those: Peers, find: Callable[[], Value]) -> list[Value]:
    """What each of them comes to, in all that they do together.

    Raises:
        PeerError: as of :meth:`Peers.part`.
        TuneError: they did different things.
    """
    try:
        with among(those):
            found = those.part("tuning", lambda: (find(),))
    except _Left as left:
        told = (f"rank {n}: {' > '.join((*each.path[1:], each.what or each.kind))}" for n, each in enumerate(left.said))
        raise TuneError(
            f"the ranks did different things ({'; '.join(dict.fromkeys(told))}), expected the same model, inputs and "
            "arguments on each; nothing was tuned"
        ) from left
    if None in found:
        raise TuneError(f"rank {found.index(None)} had not done what the others had, expected the same on each")
    return [each[0] for each in found if each is not None]


def now_s() -> float:
    """Seconds of the monotonic clock; among others those that all decide by."""
    those = peers()
    return time.monotonic() if those is None else those.now_s


def each_of(what: str, mine: Value) -> list[Value]:
    """What each met; of a process alone its own."""
    those = peers()
    return [mine] if those is None else those.tell(what, mine)


def parts(name: str, find: Callable[[], Value]) -> list[Value]:
    """What each found in a part of the way, without those that did not come to it; see :meth:`Peers.part`."""
    those = peers()
    return [find()] if those is None else [each for each in those.part(name, find) if each is not None]


def from_first(name: str, find: Callable[[], Value]) -> Value:
    """What rank 0 finds by itself, while the others wait."""
    those = peers()
    if those is None:
        return find()

    def found() -> tuple[Value | None]:
        if those.rank:
            return (None,)
        with among(None):
            return (find(),)

    first = those.part(name, found)[0]
    assert first is not None
    return first[0]  # type: ignore[return-value]


def mean_of(what: str, time: float) -> float:
    """A time, averaged over all."""
    times = each_of(what, time)
    return time if len(times) == 1 else sum(times) / len(times)
