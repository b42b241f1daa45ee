"""A run whose clock takes as little time as can be: who is faster is none of the zoo's questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from torch import nn

from twinkle_tune import tune_model
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.measure.clock import Call, CpuClock
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.tune.events import Listener
from twinkle_tune.tune.in_process import InProcess
from twinkle_tune.tune.task import Task

_KINDS = ("torch", "experts")
"""Rivals that need neither a compiler nor a GPU."""
SETTINGS = RaceSettings(max_rounds=9, min_gain=0.9)
"""Nobody is ten times as fast, so nobody wins, and no time is spent on timing winners again."""


class OneCall(CpuClock):
    """A burst of one call."""

    def block_calls(self, call: Call) -> int:
        """One."""
        return 1

    def burst_us(self, call: Call, block_calls: int) -> float:
        """The time of the call, made now."""
        return self.first_call_us(call)


class Quick(InProcess):
    """Contests in this process, without the figures that only a report shows."""

    def hold(self, task: Task, listener: Listener) -> Contest:
        """As in any run, by the quick clock."""
        with patch("twinkle_tune.contest.call.slot_clock", lambda device, **_: OneCall()):
            return super().hold(replace(task, further=""), listener)


def quick_profile(model: nn.Module, inputs: Mapping[str, Any], mode: Mode) -> Profile:
    """A profile in which every rival of :data:`_KINDS` was judged and, where right, timed a few times.

    However long that takes: out of time on a busy machine, rivals would be left out.
    """
    with patch("twinkle_tune.tune.little.LEAST", 0.0):  # also where it could save next to nothing
        return tune_model(
            model,
            [dict(inputs)],
            mode=mode,
            device="cpu",
            candidates=_wanted(model, mode) or ["original"],
            settings=SETTINGS,
            executor=Quick(),
        )


def _wanted(model: nn.Module, mode: Mode) -> list[str]:
    """The kinds that some slot of the model has, since it is an error to ask for others."""
    names = {found.name for target in find_slots(model) for found in contestants(target, "cpu", mode)}
    return [kind for kind in _KINDS if any(name.startswith((f"{kind}.", f"{kind}:")) for name in names)]
