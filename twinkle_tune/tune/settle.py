"""What the whole model says of the winners: those with which it is wrong, or not faster, are taken back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from twinkle_tune.capture.step import Step
from twinkle_tune.errors import StaleProfileError
from twinkle_tune.kernel.plan import Plan, plan_profile
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.measure.clock import Clock
from twinkle_tune.profile.schema import Contest, Profile, StepResult
from twinkle_tune.tune.agree import disagreement
from twinkle_tune.tune.choose import (
    culprits,
    only_winners_of,
    saved_us,
    slots_with_winners,
    take_back,
    take_back_wrong,
    verdict_of,
)
from twinkle_tune.tune.events import Listener, StepChecked
from twinkle_tune.tune.refine import without_orphans
from twinkle_tune.tune.whole import time_steps

SECONDS = 6.0
"""A step of the whole model is timed for about this long, unless the fewest rounds take longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A model with the ways of running it, to settle a profile's winners on.

    Attributes:
        model: with its originals.
        steps: the ways of running it.
        clock: of the device.
        registry: where winners are found.
        tell: told of each step.
        seed: of the order of rounds, and of what the model draws.
        ends_s: when time is out, on the monotonic clock; None for no limit. Each step gets the fewest rounds in any
            case: winners that nobody timed in the model would be kept unseen.
        runner: the model as it runs, compiled in the compile modes; None where that is made for each timing.
    """

    model: nn.Module
    steps: tuple[Step, ...]
    clock: Clock
    registry: Registry
    tell: Listener
    seed: int
    ends_s: float | None = None
    runner: nn.Module | None = None

    def settled(self, profile: Profile) -> Profile:
        """The profile with each step timed, and without the winners that make a step wrong or gain it nothing.

        Raises:
            StaleProfileError: a winner could not be bound again, though it was just measured.
        """
        profile, plan = self._agreeing(replace(profile, contests=without_orphans(profile.contests)))
        while True:
            results = self._timed(profile, self.steps, plan)
            slow = [s for s, result in zip(self.steps, results, strict=True) if result.tuned_us and result.ratio >= 1.0]
            if not slow:
                return replace(profile, steps=results, verdict=verdict_of(profile.contests, results))
            together = {result.label: result for result in results}
            for step in slow:
                profile = self._without_culprits(profile, step, together[step.label])
            plan = self._plan(profile)

    def _agreeing(self, profile: Profile) -> tuple[Profile, Plan]:
        """The profile without the winners with which a step computes something else."""
        plan = self._plan(profile)
        for step in self.steps:
            while slots := slots_with_winners(profile.contests, step.label):
                why = disagreement(self.model, step, plan, self.seed)
                self.tell(StepChecked(label=step.label, disagreement=why))
                if not why:
                    break
                alone = {}
                for slot in slots if len(slots) > 1 else ():
                    one = replace(profile, contests=only_winners_of(profile.contests, slot, step.label))
                    alone[slot] = disagreement(self.model, step, self._plan(one), self.seed)
                guilty = {slot: reason for slot, reason in alone.items() if reason}
                if not guilty:
                    # Each is right alone: without the one that is missed least.
                    guilty = {min(slots, key=lambda slot: _saved(profile.contests, slot)): why}
                profile = _left(profile, take_back_wrong(profile.contests, step.label, guilty))
                plan = self._plan(profile)
        return profile, plan

    def _without_culprits(self, profile: Profile, step: Step, together: StepResult) -> Profile:
        slots = slots_with_winners(profile.contests, step.label)
        if len(slots) == 1 or self._is_late:
            slow = dict.fromkeys(slots, together)
        else:
            alone = {}
            for slot in slots:
                one = replace(profile, contests=only_winners_of(profile.contests, slot, step.label))
                alone[slot] = self._timed(one, [step], self._plan(one))[0]
            slow = culprits(alone)
        return _left(profile, take_back(profile.contests, step.label, slow))

    def _timed(self, profile: Profile, steps: Sequence[Step], plan: Plan) -> tuple[StepResult, ...]:
        seconds = SECONDS
        if self.ends_s is not None:
            # Half of what is left: winners that are taken back are timed without again.
            seconds = min(SECONDS, max(0.0, self.ends_s - time.monotonic()) / (2 * len(steps)))
        return time_steps(
            self.model, steps, profile, plan, self.clock, self.tell,
            seed=self.seed, seconds=seconds, runner=self.runner,
        )  # fmt: skip

    def _plan(self, profile: Profile) -> Plan:
        if not profile.winners:
            return Plan()
        plan = plan_profile(self.model, profile, profile.device, profile.mode, self.registry)
        if plan.stale:
            raise StaleProfileError("; ".join(plan.stale))
        return plan

    @property
    def _is_late(self) -> bool:
        return self.ends_s is not None and time.monotonic() >= self.ends_s


def _left(profile: Profile, contests: Sequence[Contest]) -> Profile:
    return replace(profile, contests=without_orphans(contests))


def _saved(contests: Sequence[Contest], slot: str) -> float:
    return sum(saved_us(contest) for contest in contests if contest.slot.name == slot)
