"""The parts of a report, as text that every format lays out in its own way."""

from __future__ import annotations

from dataclasses import dataclass

from twinkle_tune.report.brief import Brief
from twinkle_tune.report.derive import Fate
from twinkle_tune.report.further import FurtherPart
from twinkle_tune.report.run_time import PhaseLine
from twinkle_tune.report.ways import WayLine

LEGEND = (
    "Time ÷ original: median over paired rounds of the candidate's time over the original's, under 1 is "
    "faster. In brackets the interval that holds it with at least 95% confidence (under 6 rounds: the "
    "smallest and the largest seen). Parity: error ÷ limit of the tensor that came closest to its limit; "
    "up to 1 passes. Memory: the peak of one call or step beyond what was allocated before it, "
    "for winners divided by the original's."
)


FURTHER = "Other timings, for information"
"""Stands above them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLine:
    """The whole model in one step, without and with the winners.

    ``tone`` is "gain", "loss" or "" for neither; ``number`` is the step's place in the profile, from 1; ``spark``
    is the ratio round by round; ``memory`` is the peak with the winners, and over that without; ``amdahl`` is what the
    slots cover of the step, what was gained and what is left; ``words`` is ``reading`` with the speed-up;
    ``is_kept`` says that it was run and that nothing won in it.
    """

    number: int
    step: str
    compared: bool
    tone: str
    original: str
    tuned: str
    ratio: str
    memory: str
    reading: str
    spark: str
    amdahl: str = ""
    words: str = ""
    is_kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionLine:
    """One contest in the table of winners.

    ``gained`` says whether something else than the original won, ``fate`` what became of the contest; ``order`` has
    the figures behind the texts, for sorting; ``spark`` is the winner's ratio round by round; ``memory`` its peak over
    the original's; ``saves`` is what a winner saves of a step, ``saved`` its share; ``called`` is False for a size that
    the model never calls, ``timed`` where no candidate was; ``is_first`` marks the winners and the largest of the
    others.
    """

    number: int
    slot: str
    short: str
    call: str
    calls: str
    share: str
    winner: str
    gained: bool
    fate: Fate
    order: tuple[float | None, ...]
    original: str
    time: str
    ratio: str
    speedup: str
    memory: str
    spark: str
    saves: str
    saved: float | None
    called: bool
    timed: bool
    is_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """A candidate that was timed.

    ``mark`` is "winner", "kept" for an original that stayed, or "timed again" for a winner's second race; ``parity``
    is error over limit, and ``parity_of`` says of which tensor.
    """

    candidate: str
    source: str
    mark: str
    time: str
    ratio: str
    rounds: str
    first_call: str
    memory: str
    parity: str
    parity_of: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """A comparison of a candidate's tensor with its limit; ``margin`` is error over limit."""

    candidate: str
    tensor: str
    point: str
    error: str
    limit: str
    margin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A candidate that was not."""

    candidate: str
    source: str
    stage: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestPart:
    """One contest in full: the timed candidates from the fastest to the slowest, the refused ones, the untimed ones.

    ``conditions`` is the device while it was timed; "" where the machine tells nothing. ``further`` has the times that
    decide nothing; None where there are none. ``timed`` says what the times are of where that is not just the slot's
    call.
    """

    number: int
    slot: str
    call: str
    target: str
    where: str
    seen: str
    winner: str
    gained: bool
    fate: Fate
    ratio: str
    reason: str
    timed: str
    runners: tuple[Runner, ...]
    refused: tuple[Refused, ...]
    untimed: tuple[str, ...]
    margins: tuple[Margin, ...]
    conditions: str = ""
    further: FurtherPart | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapesLine:
    """A slot that was measured with several row counts, and what is bound for which."""

    slot: str
    where: str
    rules: str
    won: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A whole report but for its contests in full, which are :func:`twinkle_tune.report.view.contest_parts`.

    ``advice`` is what to do ("Apply it"), ``kind`` the same for machines, and ``why`` says why; ``run`` are the
    lines to do it with, ``then`` what else there is to do, and ``then_run`` its command;
    ``counts`` says what a contest is and how many ended how; ``labels`` what the steps' labels mean; ``notes`` are what
    a reader must know before believing a figure; ``line`` is one of facts; ``ways`` are the ways of running the whole
    model, ``ways_short`` the same in a heading and a line a step; ``phases`` say where the run's time went; ``outside``
    says which parts of the model no
    kernel is offered for, and their share.
    """

    title: str
    advice: str
    kind: str
    why: str
    run: tuple[str, ...]
    then: str
    then_run: str
    counts: str
    labels: str
    brief: Brief
    outside: str
    line: str
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    steps: tuple[StepLine, ...]
    ways: tuple[WayLine, ...]
    ways_short: tuple[str, ...]
    selections: tuple[SelectionLine, ...]
    shapes: tuple[ShapesLine, ...]
    uncalled: tuple[str, ...]
    phases: tuple[PhaseLine, ...]
    reproduce: str
    apply: str
    legend: str = LEGEND
