"""What a profiling run tells while it goes on. Values only: whoever listens decides how to show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twinkle_tune.contest.events import RoundTimed, TrialRefused, TrialStarted
from twinkle_tune.profile.schema import Contest, StepResult
from twinkle_tune.profile.setup import CompiledStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """The model was run and its slots are known.

    Attributes:
        candidates: how many take part in each contest that follows, in their order.
        steps: labels of the ways of running the model.
        uncalled: slots that no step called.
        whole_s: seconds that timing the whole model will take after the contests, about.
        budget_s: seconds that the run was given; None for no limit.
        notes: lines for people: what the budget leaves out from the start.
    """

    candidates: tuple[int, ...]
    steps: tuple[str, ...]
    uncalled: tuple[str, ...]
    whole_s: float
    budget_s: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestAdded:
    """A contest more than was known at first, between two shapes with different winners."""

    candidates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestStarted:
    """Contest ``index`` (from 1) begins. ``call`` is short text of what is called ("float32[1,128,256]")."""

    index: int
    slot: str
    call: str
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestPlaced:
    """A race of a contest begins on a device of a cluster."""

    index: int
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestLost:
    """The device of a contest is lost. ``goes_on``: whether the contest is begun on another one."""

    index: int
    device: str
    reason: str
    goes_on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestFinished:
    """A contest has its selection."""

    index: int
    contest: Contest


@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerTimedAgain:
    """A contest has a winner, which is now timed once more against the original, in another process if there is one."""

    candidate: str
    index: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalFailed:
    """The original failed in the worker process: its rivals are tried one by one to find out beside which.

    Attributes:
        reason: what it did, such as "raised RuntimeError: ...".
        processes: how many worker processes that takes at most, each of which takes seconds to start with a GPU.
    """

    reason: str
    processes: int
    index: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WaysTimed:
    """The ways of running the whole model were timed in a step."""

    label: str
    compiled: tuple[CompiledStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizesTried:
    """The way that won a step was tried at other sizes of its inputs.

    Attributes:
        label: of the step.
        way: its name.
        tried, shown: at how many sizes it was, before its time was over, and at how many of them it may run.
    """

    label: str
    way: str
    tried: int
    shown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepChecked:
    """The whole model was compared with and without the winners; ``disagreement`` is "" where it computes the same."""

    label: str
    disagreement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """The whole model is being timed with and without the winners."""

    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished:
    """The whole model was timed."""

    result: StepResult


Event = (
    Captured
    | ContestAdded
    | ContestStarted
    | ContestPlaced
    | ContestLost
    | TrialStarted
    | TrialRefused
    | RoundTimed
    | OriginalFailed
    | WinnerTimedAgain
    | ContestFinished
    | WaysTimed
    | SizesTried
    | StepChecked
    | StepStarted
    | StepFinished
)
Listener = Callable[[Event], None]


def nobody(event: Event) -> None:
    """Who listens where nobody does."""
