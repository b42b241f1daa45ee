"""Ways of running the whole model against the original: which wins which step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from twinkle_tune.capture.held_out import Tried
from twinkle_tune.contest.compiling import uncapped
from twinkle_tune.errors import in_a_line
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.setups import digest_of_model
from twinkle_tune.profile.setup import CompiledStep, Setup
from twinkle_tune.tune.events import Listener, StepStarted, WaysTimed
from twinkle_tune.tune.way_contest import Hall, WayContest, Won, calls_of
from twinkle_tune.tune.way_figures import without_figure
from twinkle_tune.tune.whole import release_optimizers

_LATE = "the budget was used up before its turn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What came of all ways in all steps.

    Attributes:
        compiled: each way in each step.
        setups: the winners of steps, and for which calls they are shown: those of the step, at first.
    """

    compiled: tuple[CompiledStep, ...] = ()
    setups: tuple[Setup, ...] = ()

    @property
    def compile_s(self) -> float:
        """Seconds that the winners took to compile."""
        won = {(setup.label, setup.name) for setup in self.setups}
        return sum(way.compile_s for way in self.compiled if (way.label, way.way) in won)

    def of(self, label: str) -> Ways:
        """What came of them in one step."""
        return Ways(
            compiled=tuple(way for way in self.compiled if way.label == label),
            setups=tuple(setup for setup in self.setups if setup.label == label),
        )


Ask = Callable[[Tried, float, Callable[[], Ways]], Ways]
"""What came of ways in a step, which have until a moment: by what is known, or by holding their contest."""


def _hold(tried: Tried, ends_s: float, hold: Callable[[], Ways]) -> Ways:
    return hold()


def time_ways(hall: Hall, tried: Sequence[Tried], tell: Listener, ask: Ask = _hold) -> Ways:
    """Let each way of running the model compete with the original in each step, all in the same rounds.

    The model's originals are inside of each. The fastest is then held against itself with another attention of the
    model's own, which must be clearly faster, by 2%. What torch.compile kept in this process is dropped before each
    step and after the last. A way that cannot be compiled, computes something else, or would run uncompiled, has no
    figure, but the reason. Steps that generate text come first, as most of the speed is there; each step has its part
    of the time.

    Args:
        hall: what the contests have in common.
        tried: steps, and the same of other sizes.
        tell: told of each step that is over.
        ask: takes what is known of a step's contest, or has it held.
    """

    def found(each: Tried, part: Hall) -> Ways:
        return ask(each, part.ends_s, partial(_held_in, part, each, tell))

    return _joined(hall, tried, found)


def with_kernels(
    hall: Hall,
    kernels: Plan,
    tried: Sequence[Tried],
    ways: Ways,
    tell: Listener,
    ask: Ask = _hold,
) -> Ways:
    """Let the kernels that won their contests compete, inside of the ways that won steps and without any.

    A way runs with kernels inside where it is clearly faster so, by 2%; where the kernels alone are faster than both,
    no way wins the step.

    Args:
        hall: what the contests have in common.
        kernels: the plan of those that won.
        tried: the steps in which kernels may gain; others keep what was found.
        ways: what came of all ways in all steps, with the originals inside.
        tell: told of each step that is over.
        ask: takes what is known of a step's contest, or has it held.
    """

    def found(each: Tried, part: Hall) -> Ways:
        alone = ways.of(each.step.label)
        if not alone.setups:
            return alone
        more = ask(each, part.ends_s, partial(_held_with_kernels, part, kernels, each, alone, tell))
        again = {way.way for way in more.compiled}
        return Ways(
            compiled=(*(way for way in alone.compiled if way.way not in again), *more.compiled), setups=more.setups
        )

    labels = {each.step.label for each in tried}
    more = _joined(hall, tried, found)
    return Ways(
        compiled=(*(way for way in ways.compiled if way.label not in labels), *more.compiled),
        setups=(*(setup for setup in ways.setups if setup.label not in labels), *more.setups),
    )


def _joined(hall: Hall, tried: Sequence[Tried], find: Callable[[Tried, Hall], Ways]) -> Ways:
    """What came of all steps, as they were given. One that needs less than its part of the time leaves it to others.

    Where a way won a step, one is tried in each step after it, though their part may be over.
    """
    found = [Ways()] * len(tried)
    order = sorted(range(len(tried)), key=lambda place: not tried[place].step.generates)
    try:
        for left, place in zip(range(len(order), 0, -1), order, strict=True):
            now_s = time.monotonic()
            ends_s = now_s + (hall.ends_s - now_s) / left
            if any(ways.setups for ways in found):
                ends_s = max(ends_s, hall.ends_after_one_s(now_s))
            part = replace(hall, ends_s=ends_s)
            found[place] = find(tried[place], part)
    finally:
        release_optimizers([step for each in tried for step in each.all])
    return Ways(
        compiled=tuple(way for ways in found for way in ways.compiled),
        setups=tuple(setup for ways in found for setup in ways.setups),
    )


def _held_in(hall: Hall, tried: Tried, tell: Listener) -> Ways:
    """The contest of all ways in one step, held."""
    model, label, trains = hall.model, tried.step.label, hall.terms.mode.trains
    if time.monotonic() >= hall.ends_s:
        return Ways(compiled=tuple(without_figure(model, label, _LATE, "not timed", trains=trains)))
    torch.compiler.reset()
    tell(StepStarted(label=label))
    try:
        seen = calls_of(model, tried.step)
    except Exception as error:  # the original's: such a step is our own guess
        why = f"the model does not take the step ({in_a_line(error, 200)})"
        return Ways(compiled=tuple(without_figure(model, label, why, "inconclusive", trains=trains)))
    try:
        with uncapped():
            contest = WayContest(hall, tried.step, tried.again, forms=len(seen))
            won = contest.won()
            tell(WaysTimed(label=label, compiled=tuple(contest.found)))
            if won is None:
                return Ways(compiled=tuple(contest.found))
    finally:
        torch.compiler.reset()
    setup = Setup(label=label, calls=seen, model=digest_of_model(model), **asdict(won))
    return Ways(compiled=tuple(contest.found), setups=(setup,))


def _held_with_kernels(hall: Hall, kernels: Plan, tried: Tried, alone: Ways, tell: Listener) -> Ways:
    """The contest of a step's winner with the kernels, held: what is found beside its own record."""
    label, (setup,) = tried.step.label, alone.setups
    without = Won(way=setup.way, attention=setup.attention, cache=setup.cache)
    more = replace(without, kernels=True).name
    if time.monotonic() >= hall.ends_s:
        return Ways(
            compiled=(CompiledStep(label=label, way=more, problem=_LATE, cause="not timed"),), setups=alone.setups
        )
    torch.compiler.reset()
    tell(StepStarted(label=label))
    try:
        with uncapped():
            seen = calls_of(hall.model, tried.step)
            contest = WayContest(hall, tried.step, tried.again, forms=len(seen))
            compile_s = next(way.compile_s for way in alone.compiled if way.way == setup.name)
            won = contest.with_kernels(without, kernels, compile_s)
            is_new = won is not None and won != without
            found = tuple(step for step in contest.found if step.way != setup.name or step.cause == "wrong")
            tell(WaysTimed(label=label, compiled=found))
    finally:
        torch.compiler.reset()
    if is_new:
        return Ways(compiled=found, setups=(replace(setup, kernels=True, calls=seen),))
    return Ways(compiled=found, setups=() if won is None else alone.setups)
