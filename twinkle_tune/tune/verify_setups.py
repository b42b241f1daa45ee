"""The ways of running the whole model that won, held against the present."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from twinkle_tune.capture.held_out import tried_steps
from twinkle_tune.capture.step import Step
from twinkle_tune.contest.agree import Agreement
from twinkle_tune.contest.compiling import uncapped
from twinkle_tune.errors import in_a_line
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.parity.verdict import Inconclusive, Pass
from twinkle_tune.profile.schema import Profile
from twinkle_tune.profile.setup import Setup
from twinkle_tune.tune.events import Listener
from twinkle_tune.tune.original import telling_apart
from twinkle_tune.tune.settle import SECONDS
from twinkle_tune.tune.whole import time_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupCheck:
    """One way in the step that it won, here and now.

    Attributes:
        setup: as the profile has it.
        kind: what is the matter; "" where it holds.
        text: the same in words.
        ratio, low, high: its time over the original's now, median and interval; None where it was not timed.
    """

    setup: Setup
    kind: Literal["", "stale", "wrong", "slow", "inconclusive"] = ""
    text: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


def check_setups(
    profile: Profile, plan: Plan, model: nn.Module, example_inputs: object, tell: Listener, *, seed: int
) -> Iterator[SetupCheck]:
    """Each way that won, in its step: whether it is right, and still faster.

    Args:
        profile: what to check.
        plan: what of it can be bound; one that cannot be bound is told elsewhere, and not checked.
        model: with its originals.
        example_inputs: as of :func:`twinkle_tune.tune_model`.
        tell: told of each step.
        seed: of what the model draws, and of the order of rounds.
    """
    if not plan.has_ways:
        return
    tried = tried_steps(model, example_inputs, profile.mode, profile.device, accumulate=profile.accumulate or 1)
    steps = {each.step.label: each.step for each in tried}
    with uncapped():
        for setup in profile.setups:
            step = steps.get(setup.label)
            if step is None:
                why = "the model has no such step with these inputs; is it the model, and are they the inputs?"
                yield SetupCheck(setup=setup, kind="stale", text=why)
            else:
                yield telling_apart(tell, partial(_check, setup, step, profile, plan, model, seed))


def _check(
    setup: Setup, step: Step, profile: Profile, plan: Plan, model: nn.Module, seed: int, tell: Listener
) -> SetupCheck:
    try:
        verdict = Agreement(model, step, plan, seed, everywhere=True).verdict(compiled=True)
        if isinstance(verdict, Inconclusive):
            return SetupCheck(setup=setup, kind="inconclusive", text=verdict.reason)
        if not isinstance(verdict, Pass):
            return SetupCheck(setup=setup, kind="wrong", text=verdict.reason)
        (now,) = time_steps(model, [step], profile, plan, clock_for(profile.device), tell, seed=seed, seconds=SECONDS)
    except Exception as error:  # a compiler's, in a stranger's model: anything
        return SetupCheck(setup=setup, kind="wrong", text=f"it raised {in_a_line(error, 200)}")
    slow = f"it takes {now.ratio:.3f} of the original's time ({now.low:.3f} to {now.high:.3f})" if now.high >= 1 else ""
    kind: Literal["", "slow"] = "slow" if slow else ""
    return SetupCheck(setup=setup, kind=kind, text=slow, ratio=now.ratio, low=now.low, high=now.high)
