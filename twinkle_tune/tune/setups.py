"""What the whole model says of the ways that won its steps: bound as they will be, each must still gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from twinkle_tune.capture.step import Step
from twinkle_tune.errors import StaleProfileError
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.measure.clock import Clock
from twinkle_tune.profile.schema import Profile
from twinkle_tune.tune.events import Listener
from twinkle_tune.tune.gain import gained
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
    """The profile with the ways that won beside the kernels that won; as it was where they gain nothing.

    Each step is timed once more with all bound as ``kernelize_model`` binds it: the ways for the calls that were shown,
    the kernels for all others, and in the ways that won with them. A way with which its step gains nothing is left out;
    where another step became slower, all are. By memory no way is chosen.

    Args:
        profile: with the kernels' winners, as the whole model settled them.
        ways: what came of all ways.
        model: with its originals.
        steps: the model's, those in which ways won among them, once each.
        clock: of the device.
        registry: where winners are found.
        tell: told of each step.
        seed: of the order of rounds.
        seconds: that a step is timed.
    """
    profile = replace(profile, compiled=ways.compiled)
    setups = () if profile.aim.is_memory else ways.setups
    while setups:
        tried = replace(profile, setups=setups)
        plan = plan_profile(model, tried, tried.device, tried.mode, registry)
        if unbound := plan.unbound(tried.winners):
            raise StaleProfileError("; ".join(unbound))
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
