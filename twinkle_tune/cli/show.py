"""What the terminal shows while contests run, and at the end.

Import this inside a command's body: it needs Rich at once and, by way of the events, torch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self, assert_never

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from twinkle_tune.contest.events import RoundTimed, TrialRefused, TrialStarted
from twinkle_tune.profile.schema import Profile
from twinkle_tune.report.terminal import print_phases, print_report
from twinkle_tune.report.text import one_line, ratio_text
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.events import (
    Captured,
    ContestAdded,
    ContestFinished,
    ContestLost,
    ContestPlaced,
    ContestStarted,
    Event,
    OriginalFailed,
    SizesTried,
    StepChecked,
    StepFinished,
    StepStarted,
    WaysTimed,
    WinnerTimedAgain,
)
from twinkle_tune.tune.progress import Lines

_BAR_WIDTH = 24
_NAME_LIMIT = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is known of a run so far.

    Attributes:
        candidates: how many take part in each contest; empty before the model was run.
        done: contests that are over.
        began_s: when the first contest began, by the clock.
        whole_s: seconds that the whole model will take after them.
        budget_s: seconds that the run was given; None for no limit.
        started_s: when the run began, by the clock.
        names: what contests are about, by their indexes.
        devices: the contests that devices of a cluster hold, by the device.
    """

    candidates: tuple[int, ...] = ()
    done: int = 0
    began_s: float = 0.0
    whole_s: float = 0.0
    budget_s: float | None = None
    started_s: float = 0.0
    place: str = "running the model once"
    candidate: str = ""
    round: int = 0
    alive: int = 0
    best: str = ""
    ratio: float = 1.0
    refused: int = 0
    names: Mapping[int, str] = field(default_factory=dict)
    devices: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Contests there will be; 0 before the model was run."""
        return len(self.candidates)


def advance(state: State, event: Event, now_s: float) -> State:
    """The state after an event."""
    match event:
        case Captured():
            seen = replace(state, candidates=event.candidates, whole_s=event.whole_s, budget_s=event.budget_s)
            return replace(seen, began_s=now_s, place="")
        case ContestAdded():
            return replace(state, candidates=(*state.candidates, event.candidates))
        case ContestStarted():
            place = f"{one_line(event.slot, _NAME_LIMIT)} {one_line(event.call, _NAME_LIMIT)}"
            return _cleared(replace(state, place=place, refused=0, names={**state.names, event.index: place}))
        case ContestPlaced():
            return replace(state, devices={**_without(state, event.index), event.device: event.index})
        case ContestLost():
            return replace(state, devices=_without(state, event.index))
        case TrialStarted():
            return replace(state, candidate=one_line(event.candidate, _NAME_LIMIT))
        case TrialRefused():
            return replace(state, refused=state.refused + 1)
        case RoundTimed():
            best = one_line(event.best, _NAME_LIMIT)
            return replace(state, candidate="", round=event.number, alive=event.alive, best=best, ratio=event.ratio)
        case ContestFinished():
            return _cleared(replace(state, done=state.done + 1, devices=_without(state, event.index)))
        case WinnerTimedAgain():
            return replace(_cleared(state), candidate=f"{one_line(event.candidate, _NAME_LIMIT)} once more")
        case OriginalFailed():
            return replace(_cleared(state), candidate="its rivals one by one, each in a process of its own")
        case StepChecked():
            place = f"checked the whole model, {one_line(event.label, _NAME_LIMIT)}"
            return _cleared(replace(state, place=place, refused=0))
        case StepStarted():
            return _cleared(replace(state, place=f"the whole model, {one_line(event.label, _NAME_LIMIT)}", refused=0))
        case StepFinished() | WaysTimed() | SizesTried():
            return _cleared(state)
        case _:
            assert_never(event)


def seconds_left(state: State, now_s: float) -> float | None:
    """How long the run takes if the candidates that are left are like those that are done; None if none is done."""
    done = sum(state.candidates[: state.done])
    if done == 0:
        return None
    return (now_s - state.began_s) / done * sum(state.candidates[state.done :]) + state.whole_s


def detail(state: State) -> str:
    """One line on what is going on."""
    parts = [state.place] if state.place else []
    if state.candidate:
        parts.append(f"checking {state.candidate}")
    if state.round:
        parts.append(f"round {state.round}, {state.alive} in the race")
        parts.append(f"best {state.best} {ratio_text(state.ratio)}" if state.best != ORIGINAL else "best original")
    if state.refused:
        parts.append(f"{state.refused} refused")
    return " · ".join(parts)


class Progress:
    """A listener that shows a run while it goes on, on stderr so that stdout stays free for results.

    On a terminal a bar and a line that change in place, and a lasting line for each finished contest;
    elsewhere the lasting lines alone. Use it as a context manager around the run.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(file=sys.stderr)
        self._clock = clock
        self._state = State(started_s=clock())
        self._lines = Lines(self._say)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._draw, console=self._console, transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Event) -> None:
        """Take note of an event of the run."""
        self._state = advance(self._state, event, self._clock())
        self._lines(event)

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _draw(self) -> Table:
        state = self._state
        now_s = self._clock()
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=state.total or None, completed=state.done, width=_BAR_WIDTH, pulse=state.total == 0)
        grid.add_row(bar, Text(clock_line(state, now_s)))
        whole = Table.grid()
        whole.add_row(grid)
        for line in device_lines(state) or [detail(state)]:
            whole.add_row(Text(line, no_wrap=True, overflow="ellipsis"))
        return whole


def final_table(profile: Profile, path: str = "", console: Console | None = None, *, timeline: bool = False) -> None:
    """Print the short form of the report to stdout: what to do, the whole model and what won.

    ``path`` is where the profile lies, for the lines to copy; ``timeline`` adds where the run's time went.
    """
    console = console or Console()
    print_report(profile, console, path)
    if timeline:
        print_phases(profile, console)


def device_lines(state: State) -> list[str]:
    """A line for each device of a cluster that holds a contest."""
    return [f"{one_line(name, _NAME_LIMIT)}: {state.names.get(index, '')}" for name, index in state.devices.items()]


def _without(state: State, index: int) -> dict[str, int]:
    return {device: held for device, held in state.devices.items() if held != index}


def _cleared(state: State) -> State:
    return replace(state, candidate="", round=0, alive=0, best="", ratio=1.0)


def clock_line(state: State, now_s: float) -> str:
    """How far the run is: "3/12 · 0:41 · about 2:10 left · budget 41 of 60 s"."""
    took_s, left_s = now_s - state.started_s, seconds_left(state, now_s)
    parts = [f"{state.done}/{state.total}"] if state.total else []
    parts.append(_clock(took_s))
    if state.budget_s is not None and left_s is not None:
        left_s = min(left_s, max(0.0, state.budget_s - took_s))
    if left_s is not None and state.done < state.total:
        parts.append(f"about {_clock(left_s)} left")
    if state.budget_s is not None:
        parts.append(f"budget {took_s:.0f} of {state.budget_s:.0f} s")
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
