"""For which calls a way that won a step may run beyond those of its contest: sizes that did not choose it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch

from twinkle_tune.capture.held_out import Tried
from twinkle_tune.capture.step import Step
from twinkle_tune.cause import LASTING
from twinkle_tune.contest.compiling import uncapped
from twinkle_tune.contest.model import ModelStage, Way, compiles_at
from twinkle_tune.errors import is_by_chance
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.profile.setup import ModelCall, Setup
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.events import Listener, SizesTried
from twinkle_tune.tune.way_contest import Hall, Won, calls_of, way_of
from twinkle_tune.tune.ways import Ways
from twinkle_tune.tune.whole import held, ratio_of

MOST_SLOWER = 1.02
"""At sizes that did not choose it a way may take so much of the original's time: noise, no loss."""
_SHARE = 0.25
"""Of the time of a contest, what a size is timed for: all that is asked is whether the way loses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What came of a way at other sizes.

    Attributes:
        setup: with the calls for which it was shown.
        is_whole: whether each size was tried, and what was found is no matter of the moment.
    """

    setup: Setup
    is_whole: bool


AskSizes = Callable[[Tried, Setup, Callable[[], Sizes]], Setup]
"""A step's winner with the calls for which it was shown: by what is known, or by trying them."""


def with_sizes(
    hall: Hall,
    kernels: Plan,
    tried: Sequence[Tried],
    ways: Ways,
    tell: Listener,
    ask: AskSizes,
) -> Ways:
    """The ways, each winner with the calls of other sizes for which it was shown as well.

    There it must be right, not slower, and compiled once at most. It comes after who wins is known, so that a run whose
    time is over early has a winner in each step.

    Args:
        hall: what the contests have in common; no size is tried where its end is nearer than a compilation.
        kernels: the plan of those that won their contests, for ways that run with them.
        tried: the steps, and the same of other sizes.
        ways: what came of all ways in all steps.
        tell: told of each step that is over.
        ask: takes what is known of a step's sizes, or has them tried.
    """
    of_label = {each.step.label: each for each in tried}
    took_s = {(way.label, way.way): way.compile_s for way in ways.compiled}

    def shown(setup: Setup) -> Setup:
        each = of_label.get(setup.label)
        if each is None:
            return setup
        compile_s = took_s.get((setup.label, setup.name), 0.0)
        return ask(each, setup, partial(_tried, hall, kernels, each, setup, compile_s, tell))

    return replace(ways, setups=tuple(map(shown, ways.setups)))


def _tried(hall: Hall, kernels: Plan, tried: Tried, setup: Setup, compile_s: float, tell: Listener) -> Sizes:
    won = Won(way=setup.way, kernels=setup.kernels, attention=setup.attention, cache=setup.cache)
    way = way_of(hall.model, won, kernels)
    torch.compiler.reset()
    try:
        with uncapped():
            found = tuple(_shown(hall, way, tried, compile_s))
    finally:
        torch.compiler.reset()
    shown = [calls for calls in found if calls]
    tell(SizesTried(label=setup.label, way=setup.name, tried=len(found), shown=len(shown)))
    calls = dict.fromkeys((*setup.calls, *chain.from_iterable(shown)))
    is_whole = len(found) == len(tried.held_out) and None not in found
    return Sizes(setup=replace(setup, calls=tuple(calls)), is_whole=is_whole)


Shown = tuple[ModelCall, ...] | None
"""The calls of a size at which a way may run, () where it may not; None where nobody knows."""


def _shown(hall: Hall, way: Way, tried: Tried, compile_s: float) -> Sequence[Shown]:
    """What came of each size that was tried; nothing is shown of a way that compiles each length."""
    # Compiled for the step that it won, and then for a size.
    if not _has_left(hall, 2 * compile_s):
        return ()
    # Its code for the step that it won, as a model has it when other sizes come.
    compiles_at(hall.model, way, [tried.step])
    found = tuple(_sizes(hall, way, tried.held_out, compile_s))
    if any(found) and compiles_at(hall.model, way, tried.between):
        return tuple(None if calls is None else () for calls in found)
    return found


def _sizes(hall: Hall, way: Way, steps: Sequence[Step], compile_s: float) -> Iterator[Shown]:
    for step in steps:
        if not _has_left(hall, compile_s):
            return
        try:
            yield _at(hall, way, step)
        except Exception as error:  # the original's: nobody said that the model takes such inputs
            yield None if is_by_chance(error) else ()


def _at(hall: Hall, way: Way, step: Step) -> Shown:
    calls = calls_of(hall.model, step)
    stage = ModelStage(hall.model, step, hall.clock, seed=hall.terms.seed, seconds=hall.seconds * _SHARE)
    both = [Way(name=ORIGINAL, source=ORIGINAL, runner=hall.model), way]
    original, other = (trial.outcome for trial in held(stage, both, hall.terms, hall.ends_s).trials)
    if not isinstance(other, Measurement):
        return () if isinstance(other, Rejection) and other.cause in LASTING else None
    assert isinstance(original, Measurement)
    figure = ratio_of(other, original)
    is_settled = way.backend is not None and way.backend.graphs == stage.graphs[way.name]
    return calls if is_settled and figure.low <= 1 and figure.ratio <= MOST_SLOWER else ()


def _has_left(hall: Hall, compile_s: float) -> bool:
    return time.monotonic() + compile_s < hall.ends_s
