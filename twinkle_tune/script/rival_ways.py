"""Ways of running the whole model that may take turns in a script's own steps: those that are right on its calls."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from twinkle_tune.call.drawn import draws
from twinkle_tune.capture.step import Step
from twinkle_tune.contest.agree import Agreement
from twinkle_tune.kernel.plan import Plan, with_ways
from twinkle_tune.kernel.setups import Root, digest_of_model, setup_layers
from twinkle_tune.parity.verdict import Pass
from twinkle_tune.profile.schema import Profile
from twinkle_tune.profile.setup import CompiledStep, Setup
from twinkle_tune.script.made import steps_of
from twinkle_tune.script.raced import STEP
from twinkle_tune.script.recording import ModelSeen
from twinkle_tune.script.tuning import autocast_as
from twinkle_tune.strategy import STRATEGIES
from twinkle_tune.tune.flags import without_trace
from twinkle_tune.tune.way_contest import calls_of

_LOOKS = 3
"""A way may run as it is at its first call, record at the second, and replay from the third on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Who takes turns with the originals.

    Attributes:
        plan: what is bound in its turns.
        profile: in which it has won: what is kept if it stays.
    """

    plan: Plan
    profile: Profile


def right_ways(model: nn.Module, seen: ModelSeen, judged: Profile, ends_s: float) -> dict[str, Rival]:
    """The ways of running a model that compute what it computes in the script's calls, compiled by now.

    A model that draws random numbers (dropout) has none: compiled code draws others, and the script would not be what
    it was.

    Args:
        model: with its originals.
        seen: its calls, with one kept of each form.
        judged: the profile of its kernels.
        ends_s: of the monotonic clock: no way is begun after it.
    """
    found: dict[str, Rival] = {}
    with autocast_as(seen), without_trace(model, seen.mode):
        steps = steps_of(model, seen)
        if any(draws(partial(step.run, model)) for step in steps):
            return {}
        calls = tuple(dict.fromkeys(call for step in steps for call in calls_of(model, step)))
        for strategy in STRATEGIES:
            if strategy.instead_of or strategy.after or time.monotonic() >= ends_s:
                continue
            if strategy.why_not(model, trains=seen.mode.trains):
                continue
            setup = Setup(label=STEP, way=strategy.name, calls=calls, model=digest_of_model(model))
            layers = setup_layers(model, [setup], layers=False, functions=False)
            if isinstance(layers, str):
                continue
            plan, began_s = with_ways(Plan(), layers), time.monotonic()
            if not all(_is_right(model, step, plan) for step in steps):
                continue
            way = CompiledStep(label=STEP, way=strategy.name, compile_s=time.monotonic() - began_s)
            found[strategy.name] = Rival(plan=plan, profile=replace(judged, setups=(setup,), compiled=(way,)))
    return found


def _is_right(model: nn.Module, step: Step, plan: Plan) -> bool:
    """Whether a step computes what the original does, within the noise of roundings, and ran in the way at all."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a way that fails says so by one, and is none
            agreement = Agreement(model, step, plan, everywhere=True)
            verdicts = [agreement.verdict() for _ in range(_LOOKS)]
    except Exception:  # of the compiler: it is none of the script's
        return False
    roots = [call for _, call, _ in plan.layers if isinstance(call, Root)]
    return all(isinstance(verdict, Pass) for verdict in verdicts) and not any(root.broken for root in roots)
