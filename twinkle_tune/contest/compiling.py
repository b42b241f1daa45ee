"""Contestants under torch.compile: each with compiled code of its own, and a count of what compiling came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch

from twinkle_tune.errors import ModeError
from twinkle_tune.measure.around import ClockAround
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.mode import Mode, parse_mode
from twinkle_tune.source.compiled import why_uncompiled
from twinkle_tune.strategy.backend import MOST_AGAIN, Backend, CompiledAnewError

_UNCAPPED = 1 << 20
_open: list[bool] = []
"""Holds something while :func:`uncapped` is open: what is opened inside of it ends with the outer one."""


def mode_with(mode: object, dynamic: bool | None, accumulate: int = 1) -> Mode:
    """The mode of a run with torch.compile's ``dynamic`` and so many micro-batches in a training step.

    Raises:
        ModeError: there is no such mode, it compiles not, or does not train.
    """
    parsed = parse_mode(mode)
    if dynamic is not None and not parsed.compiles:
        raise ModeError(f"dynamic: got {dynamic} in mode {parsed}, expected a mode that compiles; leave dynamic out")
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise ModeError(f"accumulate: got {accumulate!r}, expected a number of micro-batches, at least 1")
    if accumulate > 1 and not parsed.trains:
        raise ModeError(
            f"accumulate: got {accumulate} in mode {parsed}, expected a mode that trains; leave accumulate out"
        )
    return parsed


@dataclass(slots=True, kw_only=True)
class Contestant:
    """One candidate's compiled call.

    Attributes:
        step: makes the call.
        backend: compiled it.
        standing: what must be in place while it is called: a function slot's dispatcher.
        graphs: how many graphs the first call was compiled to; 0 before it.
        breaks: how often the first call left compiled code.
    """

    step: Call
    backend: Backend
    standing: Callable[[], AbstractContextManager[object]] = nullcontext
    graphs: int = 0
    breaks: int = 0
    reasons: set[str] = field(default_factory=set)

    @property
    def recompilations(self) -> int:
        """Graphs that were compiled at calls after the first."""
        return max(0, self.backend.graphs - self.graphs) if self.graphs else 0

    def settle(self) -> None:
        """To be called after the first call: what is compiled from now on is compiled anew."""
        self.graphs = self.backend.graphs
        # Of two breaks with nothing to compute between them one shows only as its reason.
        self.breaks = max(self.graphs - 1, len(self.reasons))
        self.backend.most = self.graphs * (1 + MOST_AGAIN)


def versions() -> dict[int, int]:
    """How many versions torch.compile holds of each code object, by its id."""
    return {id(code): len(_entries(code)) for code in _known_codes()}


def stays_compiled(backend: Backend, before: Mapping[int, int], call: Callable[[], object]) -> None:
    """Refuse what was called twice and would run uncompiled, or be compiled at each call, where a user compiles it.

    Args:
        backend: compiled it; from now on it gives up as :class:`Backend` says.
        before: the :func:`versions` before its first call.
        call: calls it once more.

    Raises:
        CompiledAnewError: with what is the matter.
    """
    if not backend.graphs:
        raise CompiledAnewError(why_uncompiled())
    most = max((count - before.get(code, 0) for code, count in versions().items()), default=0)
    if most > MOST_AGAIN:
        raise CompiledAnewError(
            f"one function of it was compiled {most} times in two calls; torch.compile runs it uncompiled after "
            f"{MOST_AGAIN}"
        )
    seen = [backend.graphs]
    for _ in range(2):
        call()
        seen.append(backend.graphs)
    if seen[0] < seen[1] < seen[2]:
        raise CompiledAnewError("it is compiled anew at each call, though all are alike")
    backend.most = backend.graphs * (1 + MOST_AGAIN)


@contextmanager
def uncapped(*, compiles: bool = True) -> Iterator[None]:
    """While this is open torch.compile never turns to uncompiled code because there were too many compilations.

    Its limit counts by code object, whoever caused them: the ninth contestant would be timed uncompiled. Afterwards
    what was compiled meanwhile is gone, where there was nothing before: it would count when the user compiles.
    """
    if not compiles or _open:
        yield
        return
    import torch._dynamo.config as settings

    _open.append(True)
    taken = {id(code) for code in _known_codes() if _has_compiled(code)}
    try:
        with settings.patch(recompile_limit=_UNCAPPED, accumulated_recompile_limit=_UNCAPPED):
            yield
    finally:
        _open.clear()
        for code in _known_codes():
            if id(code) not in taken:
                torch._C._dynamo.eval_frame.reset_code(code)


def _known_codes() -> list[CodeType]:
    from torch._dynamo.convert_frame import input_codes, output_codes

    found = (weak() for weak in (*input_codes.seen, *output_codes.seen))
    return [code for code in found if code is not None]


def _has_compiled(code: CodeType) -> bool:
    return bool(_entries(code))


def _entries(code: CodeType) -> list[Any]:
    found: list[Any] = torch._C._dynamo.eval_frame._debug_get_cache_entry_list(code)
    return found


class CompilingClock(ClockAround):
    """A clock that puts in place what a contestant's call needs, outside of what is timed."""

    def __init__(self, clock: Clock) -> None:
        """Of a clock; calls that nobody has entered pass through."""
        super().__init__(clock)
        self._known: dict[int, Contestant] = {}

    def enter(self, contestant: Contestant) -> None:
        """Know a contestant by its step."""
        self._known[id(contestant.step)] = contestant

    def of(self, call: Call) -> Contestant | None:
        """The contestant whose step a call is."""
        return self._known.get(id(call))

    def first_call_us(self, call: Call) -> float:
        """As :meth:`Clock.first_call_us`; of a contestant it is where breaks are counted."""
        contestant = self.of(call)
        if contestant is None:
            return self._clock.first_call_us(call)
        with self._around(call):
            before = _break_reasons()
            time_us = self._clock.first_call_us(call)
            contestant.reasons = {reason for reason, count in _break_reasons().items() if count > before.get(reason, 0)}
            contestant.settle()
        return time_us

    @contextmanager
    def _around(self, call: Call) -> Iterator[None]:
        contestant = self.of(call)
        try:
            with nullcontext() if contestant is None else contestant.standing():
                yield
        except Exception as error:
            inner = getattr(error, "inner_exception", None)  # torch wraps what a backend raises
            raise (inner if isinstance(inner, Exception) else error) from None


def _break_reasons() -> dict[str, int]:
    from torch._dynamo.utils import counters

    return dict(counters["graph_break"])
