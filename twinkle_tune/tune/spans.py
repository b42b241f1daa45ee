"""Where the time of a run goes, by what it tells: each moment belongs to what is told next."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from twinkle_tune.contest.events import RoundTimed, TrialRefused, TrialStarted
from twinkle_tune.profile.run import Phase, RunSpan
from twinkle_tune.tune.events import (
    Captured,
    ContestFinished,
    ContestStarted,
    Event,
    SizesTried,
    StepChecked,
    StepFinished,
    StepStarted,
    WaysTimed,
    WinnerTimedAgain,
)
from twinkle_tune.words import short_name

_LEAST_S = 0.05
"""What is shorter would be written as nothing: it is counted with what came before it."""

_OfOne = TrialStarted | TrialRefused | RoundTimed | WinnerTimedAgain | ContestFinished


class Spans:
    """Listens to a run, and says where its time went so far."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """The run begins now. ``now_s`` gives seconds of a clock that never goes back."""
        self._now_s = now_s
        self._began_s = self._last_s = now_s()
        self._found: list[tuple[Phase, str, float]] = []
        self._contests: dict[int, str] = {}
        self._raced, self._again = set[int](), set[int]()

    def __call__(self, event: Event) -> None:
        """Something was told: what went before it is over."""
        phase, name = self._before(event)
        match event:
            case ContestStarted():
                self._contests[event.index] = f"{short_name(event.slot)} {event.call}"
            case RoundTimed():
                self._raced.add(event.index)
            case WinnerTimedAgain():
                self._again.add(event.index)
            case ContestFinished():
                self._contests.pop(event.index, None)
                self._raced.discard(event.index)
                self._again.discard(event.index)
        self._end(phase, name)

    def so_far(self) -> tuple[RunSpan, ...]:
        """All until now, one after another."""
        self._end("rest", "")
        made: list[RunSpan] = []
        for phase, name, begin_s in self._joined():
            if made:
                made[-1] = _until(made[-1], begin_s)
            made.append(RunSpan(phase=phase, name=name, begin_s=round(begin_s, 1), took_s=0.0))
        return (*made[:-1], _until(made[-1], self._last_s - self._began_s)) if made else ()

    def _end(self, phase: Phase, name: str) -> None:
        self._found.append((phase, name, self._last_s - self._began_s))
        self._last_s = self._now_s()

    def _joined(self) -> list[tuple[Phase, str, float]]:
        """Phase, name and beginning of what took long enough, neighbours that are alike as one."""
        ends_s = [begin_s for _, _, begin_s in self._found[1:]] + [self._last_s - self._began_s]
        long = [each for each, end_s in zip(self._found, ends_s, strict=True) if end_s - each[2] >= _LEAST_S]
        return [each for index, each in enumerate(long) if index == 0 or each[:2] != long[index - 1][:2]]

    def _before(self, event: Event) -> tuple[Phase, str]:
        """What the time before an event was spent on."""
        match event:
            case Captured():
                return "capture", ""
            case WaysTimed(label=label) | SizesTried(label=label):
                return "ways", label
            case StepChecked(label=label) | StepStarted(label=label):
                return "whole model", label
            case StepFinished(result=result):
                return "whole model", result.label
            case ContestStarted():
                return "rest", ""
            case TrialStarted() | TrialRefused() | RoundTimed() | WinnerTimedAgain() | ContestFinished():
                return self._in_contest(event), self._contests.get(event.index, "")
        return "rest", ""

    def _in_contest(
        self, event: TrialStarted | TrialRefused | RoundTimed | WinnerTimedAgain | ContestFinished
    ) -> Phase:
        if event.index in self._again or event.index not in self._contests:  # what races after all is a runner-up
            return "second race"
        # A round is told when it is over: the first one counts with what comes before it.
        is_race = event.index in self._raced and not isinstance(event, (TrialStarted, TrialRefused))
        return "race" if is_race else "candidates"


def _until(span: RunSpan, end_s: float) -> RunSpan:
    return replace(span, took_s=round(end_s - span.begin_s, 1))
