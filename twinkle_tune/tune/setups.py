"""What the whole model says of the ways that won its steps: bound as they will be, each must still gain."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from torch import nn

from twinkle_tune.capture.step import Step
from twinkle_tune.errors import StaleProfileError
from twinkle_tune.kernel.plan import plan_profile
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.measure.clock import Clock
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.profile.setup import Setup
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.choose import keep_original
from twinkle_tune.tune.events import Listener
from twinkle_tune.tune.gain import gained, promised
from twinkle_tune.tune.verdict import setups_text
from twinkle_tune.tune.ways import Ways
from twinkle_tune.tune.whole import time_steps


def with_setups(
    profile: Profile,
    ways: Ways,
    model: nn.Module,
    steps: Sequence[Step],
    clock: Clock,
    registry: Registry,
    tell: Listener,
    *,
    seed: int,
    seconds: float,
) -> Profile:
    """The profile with the ways that won in the places of the kernels that won; as it was where they gain nothing.

    Of the two one runs: a kernel's contest was held on the model as it is, not on the compiled one. Each step is timed
    once more with the ways bound as ``kernelize_model`` binds them. A way with which its step gains nothing is left
    out; where another step became slower, all are.

    Args:
        profile: with the kernels' winners.
        ways: what came of all ways.
        model: with its originals.
        steps: the model's, those in which ways won among them, once each.
        clock: of the device.
        registry: where winners are found.
        tell: told of each step.
        seed: of the order of rounds.
        seconds: that a step is timed.
    """
    setups, profile = ways.setups, replace(profile, compiled=ways.compiled)
    while setups:
        reason = f"taken back: the whole model gains more with its originals, run another way ({_names(setups)})"
        tried = replace(profile, setups=setups, contests=_originals(profile.contests, reason))
        plan = plan_profile(model, tried, tried.device, tried.mode, registry)
        if plan.stale:
            raise StaleProfileError("; ".join(plan.stale))
        results = time_steps(model, steps, tried, plan, clock, tell, seed=seed, seconds=seconds)
        slower = {result.label for result in results if result.low > 1}
        if slower:
            # One interval in twenty lies beside the truth: who is slower is so twice.
            doubted = [step for step in steps if step.label in slower]
            again = time_steps(model, doubted, tried, plan, clock, tell, seed=seed + 1, seconds=seconds)
            results = tuple({result.label: result for result in (*results, *again)}.values())
        ratios = {result.label: result for result in results}
        # Each was clearly faster in its contest: here it must not turn out to gain nothing.
        lost = [setup for setup in setups if not gained(ratios[setup.label], profile.aim)]
        if not lost and all(result.low <= 1 for result in results):
            return replace(tried, steps=results, verdict=setups_text(setups, results))
        setups = tuple(setup for setup in setups if lost and setup not in lost)
    return profile


def ways_gain_more(profile: Profile, ways: Ways) -> bool:
    """Whether the ways that won leave less of the steps' time than the kernels that won: in the whole model where it
    was timed with them, else by what they save by themselves. By memory no way is chosen.
    """
    kernels = [step.ratio if step.tuned_us else 1 - promised(profile, step.label) for step in profile.steps]
    return bool(ways.setups) and not profile.aim.is_memory and _mean(_of_ways(ways)) < _mean(kernels)


def _of_ways(ways: Ways) -> Iterator[float]:
    """Of each step the ratio of the way that won it; 1 where none did."""
    won = {setup.label: setup.way for setup in ways.setups}
    for label in dict.fromkeys(step.label for step in ways.compiled):
        found = (step.ratio for step in ways.compiled if step.label == label and step.way == won.get(label))
        yield next(found, 1.0)


def _mean(ratios: Iterable[float]) -> float:
    logs = [math.log(max(ratio, 1e-6)) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else 1.0


def _names(setups: Sequence[Setup]) -> str:
    return ", ".join(dict.fromkeys(setup.way for setup in setups))


def _originals(contests: Sequence[Contest], reason: str) -> tuple[Contest, ...]:
    return tuple(c if c.selection.winner == ORIGINAL else keep_original(c, reason, "taken back") for c in contests)
