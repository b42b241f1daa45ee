"""Who may run in a script's own steps: kernels and ways of running the whole model that are right on its own calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from torch import nn

from twinkle_tune.contest.agree import disagreement
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.measure.settings import RaceSettings
from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.script.made import steps_of
from twinkle_tune.script.recording import ModelSeen
from twinkle_tune.script.rival_ways import Rival, right_ways
from twinkle_tune.script.tuning import autocast_as, tuned
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.testing import with_winner
from twinkle_tune.tune.flags import without_trace
from twinkle_tune.tune.isolated import Isolated

ALL = "all kernels"
"""The rival that is all the others together."""
MOST = 3
"""Slots whose kernels race by themselves: those that can save most."""
GATE = RaceSettings(max_rounds=9, min_gain=0.9)
"""Few rounds, and nobody is ten times as fast: who is right is asked, not who is faster."""


def rivals_of(model: nn.Module, seen: ModelSeen, seconds: float | None) -> Mapping[str, Rival]:
    """What may take the originals' places, by name: each right by the parity rule, alone and in the whole model.

    Args:
        model: with its originals.
        seen: its calls, with one kept of each form.
        seconds: that judging may take, half of it for kernels; None for no limit. A way that is being compiled when
            they are over is waited for.

    Raises:
        TuneError: as of :func:`twinkle_tune.tune_model`.
    """
    began_s = time.monotonic()
    half = None if seconds is None else seconds / 2
    with Isolated() as executor:
        judged = tuned(model, seen, optimizer=False, settings=GATE, budget_s=half, executor=executor, progress=False)
    slots = sorted({c.slot.name for c in judged.contests if _has_rival(c)}, key=lambda name: -_share(judged, name))
    profiles = {name: with_winner(judged, slot=name) for name in slots[:MOST]}
    if len(slots) > 1:
        profiles[ALL] = with_winner(judged)
    plans = {n: plan_profile(model, p, p.device, p.mode, default_registry) for n, p in profiles.items()}
    agrees = _agreement(model, seen)
    rivals = {
        name: Rival(plan=plan, profile=profiles[name])
        for name, plan in plans.items()
        if not plan.is_empty and agrees(plan)
    }
    ends_s = math.inf if seconds is None else began_s + seconds
    return rivals | right_ways(model, seen, judged, ends_s)


def _agreement(model: nn.Module, seen: ModelSeen) -> Callable[[Plan], bool]:
    def agrees(plan: Plan) -> bool:
        with autocast_as(seen), without_trace(model, seen.mode):
            steps = steps_of(model, seen)
            return not any(disagreement(model, step, plan, 0) for step in steps)

    return agrees


def _has_rival(contest: Contest) -> bool:
    return any(t.candidate != ORIGINAL and isinstance(t.outcome, Measurement) for t in contest.trials)


def _share(profile: Profile, slot: str) -> float:
    contests = [contest for contest in profile.contests if contest.slot.name == slot]
    return sum(max((seen.share for seen in contest.seen), default=0.0) for contest in contests)
