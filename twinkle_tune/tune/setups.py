"""What the whole model says of the ways that won its steps: bound as they will be, each must still gain."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from twinkle_tune.capture.held_out import Tried
from twinkle_tune.capture.step import Step
from twinkle_tune.errors import StaleProfileError
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.objective import Aim
from twinkle_tune.profile.schema import Profile, StepResult
from twinkle_tune.profile.setup import KERNELS, CompiledStep, Setup
from twinkle_tune.tune.asking import Asking
from twinkle_tune.tune.choose import slots_with_winners, take_back
from twinkle_tune.tune.events import Listener
from twinkle_tune.tune.gain import figures
from twinkle_tune.tune.refine import without_orphans
from twinkle_tune.tune.sizes import with_sizes
from twinkle_tune.tune.verdict import setups_text
from twinkle_tune.tune.way_contest import LEAST_GAIN, Hall, winner_of
from twinkle_tune.tune.way_figures import by_kernels
from twinkle_tune.tune.ways import Ways, time_ways, with_kernels
from twinkle_tune.tune.whole import time_steps

_WAYS_S = 9.0
"""A step is timed for about this long under other ways of running the model: to generate text takes a while."""

_CONFIRMED_S = 3.0
"""Likewise in the contest of a run from a neighbour's profile, whose way has won once already."""


def ways_alone(asks: Asking, tried: Sequence[Tried], ends_s: float | None) -> Ways:
    """What came of the ways of running the whole model, with its originals inside.

    None is begun after ``ends_s``, but one in each step after one that a way won, up to the end of contests: that gains
    more than most kernels do.
    """
    hall = replace(_hall(asks, ends_s), last_s=asks.run.budget.contests_end_s or 0.0)
    return time_ways(hall, tried, asks.run.tell, asks.ways)


def settled_with_ways(
    asks: Asking, profile: Profile, steps: Sequence[Step], tried: Sequence[Tried], ways: Ways
) -> Profile:
    """The settled profile with the ways of running the whole model that gain more than its kernels do.

    Args:
        asks: asks the whole model.
        profile: as the whole model settled it.
        steps: the model's.
        tried: those in which ways competed, with others of their sizes.
        ways: what came of them, with the originals inside.
    """
    run = asks.run
    hall = _hall(asks, run.budget.whole_end_s(ways.compile_s))
    neighbour = run.neighbour
    inside = [
        each
        for each in tried
        if (neighbour is None or neighbour.tries_kernels(each.step.label))
        and may_gain(profile, ways.of(each.step.label))
    ]
    kernels = plan_profile(run.model, profile, run.terms.device, run.terms.mode, run.registry) if inside else Plan()
    if inside:

        def ask(each: Tried, ends_s: float, hold: Callable[[], Ways]) -> Ways:
            return asks.with_kernels(profile, each, ways.of(each.step.label), ends_s, hold)

        ways = with_kernels(hall, kernels, inside, ways, run.tell, ask)
    has = {way.label for way in ways.compiled if way.way == KERNELS}
    rows = tuple(by_kernels(result) for result in profile.steps if result.tuned_us and result.label not in has)
    ways = without_slower(replace(ways, compiled=(*ways.compiled, *rows)), {row.label for row in rows})
    if not profile.aim.is_memory:  # by which no way is chosen
        ways = _with_sizes(asks, profile, kernels, tried, ways)
    known = {step.label for step in steps}
    both = (*steps, *(each.step for each in tried if each.step.label not in known))
    left_s = run.budget.left_s
    # A race ends as soon as it is told: more time is for noise alone, and this is the last word.
    seconds = _WAYS_S if left_s is None else min(_WAYS_S, max(0.0, left_s) / len(both))

    def put() -> Profile:
        return with_setups(profile, ways, both, replace(hall, seconds=seconds), run.registry, run.tell)

    return asks.together(profile, ways, both, put, is_whole=seconds == _WAYS_S)


def _with_sizes(asks: Asking, profile: Profile, kernels: Plan, tried: Sequence[Tried], ways: Ways) -> Ways:
    run = asks.run
    now = [each for each in tried if run.tries_sizes(each.step.label, ways.compiled)]
    hall = _hall(asks, run.budget.sizes_end_s(ways.compile_s))
    return with_sizes(hall, kernels, now, ways, run.tell, partial(asks.sizes, profile))


def _hall(asks: Asking, ends_s: float | None) -> Hall:
    run = asks.run
    return Hall(
        model=run.model,
        clock=clock_for(run.terms.device),
        terms=run.terms,
        seconds=_WAYS_S if run.neighbour is None else _CONFIRMED_S,
        ends_s=math.inf if ends_s is None else ends_s,
        calls=run.calls,
        only=(lambda label: None) if run.neighbour is None else run.neighbour.ways,
    )


def without_slower(ways: Ways, labels: Collection[str]) -> Ways:
    """The ways without the setups that won steps in which the kernels alone took less time.

    ``labels`` are of steps in which both were held against the original, but not against each other.
    """

    def is_slower(setup: Setup) -> bool:
        both = [way for way in ways.compiled if way.label == setup.label and way.way in (setup.name, KERNELS)]
        return setup.label in labels and winner_of(both) == KERNELS

    return replace(ways, setups=tuple(setup for setup in ways.setups if not is_slower(setup)))


def may_gain(profile: Profile, ways: Ways) -> bool:
    """Whether the kernels that won may make the way that won a step faster by 2%, which they must.

    Of the way's time they can take away no more than they take away of the original's. A step that was not timed with
    them (text that is generated) may gain as much as the one that gains most.

    Args:
        profile: as the whole model settled it, with each step's time with the kernels.
        ways: what came of the ways in the step, with the originals inside.
    """
    ratios = {way.way: way.ratio for way in ways.compiled}
    setup = next((setup for setup in ways.setups if setup.name in ratios), None)
    if setup is None:
        return False
    timed = [result for result in profile.steps if result.label == setup.label] or profile.steps
    most = max((1 - result.low for result in timed if result.tuned_us), default=0.0)
    return most >= (1 - LEAST_GAIN) * ratios[setup.name]


def with_setups(
    profile: Profile,
    ways: Ways,
    steps: Sequence[Step],
    hall: Hall,
    registry: Registry,
    tell: Listener,
) -> Profile:
    """The profile with the ways that won beside the kernels that won; as it was where they gain nothing.

    Each step is timed once more with all bound as ``kernelize_model`` binds it: the ways for the calls that were shown,
    the kernels for all others, and in the ways that won with them. A way with which its step gains nothing is taken
    back. Where another step became slower, the kernels that run there are first, unless a way has them inside: beside
    ways they gain least. Then it is the way that gains least, until no step is slower. The record of a way, and the
    contest of a kernel, say why it was. By memory no way is chosen.

    Args:
        profile: with the kernels' winners, as the whole model settled them.
        ways: what came of all ways.
        steps: the model's, those in which ways won among them, once each.
        hall: the model, and how its steps are timed.
        registry: where winners are found.
        tell: told of each step.
    """
    profile, model, seed = replace(profile, compiled=ways.compiled), hall.model, hall.terms.seed
    settled = profile.contests
    timed = partial(time_steps, model, listener=tell, clock=hall.clock, seconds=hall.seconds)
    # As in the contests of ways: text that comes first finds the code that was made then, for the same sizes.
    text_first = sorted(steps, key=lambda step: not step.generates)
    setups = () if profile.aim.is_memory else ways.setups
    while setups:
        tried = replace(profile, setups=setups)
        plan = plan_profile(model, tried, tried.device, tried.mode, registry)
        if unbound := plan.unbound(tried.winners):
            raise StaleProfileError("; ".join(unbound))
        found = {result.label: result for result in timed(text_first, tried, plan, seed=seed)}
        # One interval in twenty lies beside the truth, and noise comes and goes: who is to lose by it is so twice.
        doubted = {label for label, result in found.items() if result.low > 1}
        doubted |= {setup.label for setup in setups if found[setup.label].ratio >= 1}
        if doubted:
            once_more = [step for step in text_first if step.label in doubted]
            found |= {result.label: result for result in timed(once_more, tried, plan, seed=seed + 1)}
        results = tuple(found[step.label] for step in steps)
        # Each was clearly faster in its contest: here it must not turn out to gain nothing.
        lost = [setup for setup in setups if found[setup.label].ratio >= 1]
        slower = [result for result in results if result.low > 1]
        if not lost and not slower:
            return replace(tried, steps=results, verdict=setups_text(setups, results))
        fewer = profile if lost else _without_kernels(profile, setups, slower)
        if fewer.contests != profile.contests:
            profile = fewer
            continue
        lost = lost or [max(setups, key=lambda setup: found[setup.label].ratio)]
        for setup in lost:
            why = _why_not(found[setup.label], slower, profile.aim)
            profile = replace(profile, compiled=tuple(_taken_back(way, setup, why) for way in profile.compiled))
        setups = tuple(setup for setup in setups if setup not in lost)
    return replace(profile, contests=settled)


def _without_kernels(profile: Profile, setups: Sequence[Setup], slower: Sequence[StepResult]) -> Profile:
    """The profile without the kernels that run in steps that became slower; as it was where a way has kernels inside.

    A way with kernels won its contest with them: without them nobody timed it.
    """
    if any(setup.kernels for setup in setups):
        return profile
    contests = profile.contests
    for result in slower:
        slots = slots_with_winners(contests, result.label)
        contests = take_back(contests, result.label, dict.fromkeys(slots, result), profile.aim)
    return replace(profile, contests=without_orphans(contests))


def _why_not(own: StepResult, slower: Sequence[StepResult], aim: Aim) -> str:
    """Why a way is taken back: what its own step took with it, or the step that became slower most clearly."""
    told = own if own.ratio >= 1 else max(slower, key=lambda result: result.low)
    return f"with it {told.label} {figures(told, aim)}"


def _taken_back(way: CompiledStep, setup: Setup, why: str) -> CompiledStep:
    return replace(way, taken_back=why) if (way.label, way.way) == (setup.label, setup.name) else way
