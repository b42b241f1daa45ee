"""What the whole model says of the winners: those with which it is wrong, or gains nothing, are taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from twinkle_tune.capture.step import Step
from twinkle_tune.contest.agree import disagreement
from twinkle_tune.errors import StaleProfileError, in_a_line
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.measure.chance import unless_by_chance
from twinkle_tune.measure.clock import Clock
from twinkle_tune.measure.smallest import MIN_BYTES
from twinkle_tune.peers import now_s, parts
from twinkle_tune.profile.schema import Contest, Profile, StepResult
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.choose import (
    costly,
    culprits,
    keep_original,
    only_winners_of,
    running_in,
    saved,
    slots_with_winners,
    take_back,
    take_back_idle,
    take_back_wrong,
)
from twinkle_tune.tune.events import Listener, StepChecked
from twinkle_tune.tune.gain import gained, promised
from twinkle_tune.tune.little import LEAST
from twinkle_tune.tune.original import telling_apart
from twinkle_tune.tune.refine import without_orphans
from twinkle_tune.tune.runner_up import in_the_place_of
from twinkle_tune.tune.verdict import verdict_of
from twinkle_tune.tune.whole import peaks_of, time_steps

SECONDS = 3.0
"""A step of the whole model is timed for this long at most, unless the fewest rounds take longer."""
_ALONE_S = 1.5
"""Likewise with the winners of one slot alone, to find those that are to blame."""

Known = dict[tuple[str, frozenset[tuple[str, str, tuple[str, ...], str]]], StepResult]
"""Steps that were timed, by their label and the winners that they called."""


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
        runner_up: gives a contest with the runner-up of its winner in that one's place, timed again; None where there
            is none. It is asked once for each contest whose winner made a step slower.
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
    runner_up: Callable[[Contest], Contest | None] = lambda contest: None
    ends_s: float | None = None
    runner: nn.Module | None = None

    def settled(self, profile: Profile) -> Profile:
        """The profile with each step timed, and without the winners that make a step wrong or gain it nothing.

        Raises:
            StaleProfileError: a winner could not be bound again, though it was just measured.
            Exception: what ``tell`` raised.
        """
        return telling_apart(self.tell, lambda tell: replace(self, tell=tell)._settled(profile))

    def _settled(self, profile: Profile) -> Profile:
        profile, plan = self._agreeing(replace(profile, contests=without_orphans(profile.contests)))
        asked: set[int] = set()
        known: Known = {}
        while True:
            profile, results = self._running(profile, plan, known)
            timed = zip(self.steps, results, strict=True)
            slow = [s for s, result in timed if result.tuned_us and not gained(result, profile.aim)]
            needed = profile if slow else self._without_idle(profile, results)
            if not slow and needed is profile:
                return replace(profile, steps=results, verdict=verdict_of(profile.contests, results, profile.aim))
            together, before = {result.label: result for result in results}, profile.contests
            for step in slow:
                needed = self._without_culprits(needed, step, together[step.label])
            with_others = self._with_runners_up(before, needed, asked) if slow else needed
            # A kernel that the whole model has not seen must be right there, too.
            profile, plan = self._agreeing(with_others) if with_others != needed else (needed, self._plan(needed))

    def _agreeing(self, profile: Profile) -> tuple[Profile, Plan]:
        """The profile without the winners with which a step computes something else."""
        profile = self._bindable(profile)
        plan = self._plan(profile)
        for step in self.steps:
            while slots := slots_with_winners(profile.contests, step.label):
                why = self._disagreement(step, plan)
                self.tell(StepChecked(label=step.label, disagreement=why))
                if not why:
                    break
                alone = {}
                for slot in slots if len(slots) > 1 else ():
                    one = replace(profile, contests=only_winners_of(profile.contests, slot, step.label))
                    alone[slot] = self._disagreement(step, self._plan(one))
                guilty = {slot: reason for slot, reason in alone.items() if reason}
                if not guilty:
                    # Each is right alone: without the one that is missed least.
                    guilty = {min(slots, key=lambda slot: _saved(profile, slot)): why}
                profile = _left(profile, take_back_wrong(profile.contests, step.label, guilty))
                plan = self._plan(profile)
        return profile, plan

    def _disagreement(self, step: Step, plan: Plan) -> str:
        """What is wrong with a step with a plan bound, in one process of those that tune together; "" for nothing."""
        found = parts("the whole model", lambda: disagreement(self.model, step, plan, self.seed))
        return next(filter(None, found), "")

    def _running(self, profile: Profile, plan: Plan, known: Known) -> tuple[Profile, tuple[StepResult, ...]]:
        """Each step timed, and the profile without the winners with which one raised while it was.

        A step that calls the winners that it had when it was timed before keeps those times.
        """
        while True:
            calls = {step.label: running_in(profile.contests, step.label) for step in self.steps}
            new = [step for step in self.steps if (step.label, calls[step.label]) not in known]
            try:
                results = unless_by_chance(partial(self._timed, profile, new, plan)) if new else ()
                known |= {(result.label, calls[result.label]): result for result in results}
                return profile, tuple(known[label, winners] for label, winners in calls.items())
            except Exception as error:
                slots = {contest.slot.name for contest in profile.winners}
                if not slots:
                    raise
                reason = f"taken back: the whole model raised {in_a_line(error)} while it was timed with it"
                guilty = {slot for slot in slots if len(slots) > 1 and self._raises(profile, slot)} or slots
                profile = self._kept(profile, guilty, reason)
                plan = self._plan(profile)

    def _raises(self, profile: Profile, slot: str) -> bool:
        """Whether a step raises while it is timed with the winners of one slot alone."""
        others = {contest.slot.name for contest in profile.winners} - {slot}
        one = self._kept(profile, others, "left out to find the one that raises")
        try:
            unless_by_chance(partial(self._timed, one, self.steps, self._plan(one)))
        except Exception:
            return True
        return False

    def _kept(self, profile: Profile, slots: set[str], reason: str) -> Profile:
        """The profile with the originals of some slots in the places of their winners."""
        won = {contest.workload.key for contest in profile.winners if contest.slot.name in slots}
        contests = [
            keep_original(contest, reason, "taken back") if contest.workload.key in won else contest
            for contest in profile.contests
        ]
        return _left(profile, contests)

    def _without_culprits(self, profile: Profile, step: Step, together: StepResult) -> Profile:
        slots = slots_with_winners(profile.contests, step.label)
        # Of who promises next to nothing, nothing could be seen in a step: those give way first, untimed.
        little = [s for s in slots if not profile.aim.is_memory and promised(profile, step.label, s) < LEAST]
        if len(slots) == 1 or self._is_late:
            slow = dict.fromkeys(slots, together)
        elif little:
            slow = dict.fromkeys(little, together)
        else:
            alone = {}
            for slot in slots:
                one = replace(profile, contests=only_winners_of(profile.contests, slot, step.label))
                alone[slot] = self._timed(one, [step], self._plan(one), _ALONE_S)[0]
            slow = culprits(alone, profile.aim)
        return _left(profile, take_back(profile.contests, step.label, slow, profile.aim))

    def _without_idle(self, profile: Profile, results: Sequence[StepResult]) -> Profile:
        """By memory: without the winners that take more time, and without which no step's peak is larger."""
        most_bytes = {r.label: r.tuned_peak_bytes + MIN_BYTES for r in results if r.tuned_peak_bytes is not None}
        steps = [step for step in self.steps if step.label in most_bytes]
        for slot in costly(profile.contests) if profile.aim.is_memory and not self._is_late else ():
            without = _left(profile, take_back_idle(profile.contests, slot))
            peaks = peaks_of(self.model, steps, without, self._plan(without), self.clock, self.runner)
            if all(peak is not None and peak < most_bytes[label] for label, peak in peaks.items()):
                profile = without
        return profile

    def _with_runners_up(self, before: Sequence[Contest], profile: Profile, asked: set[int]) -> Profile:
        """The profile with runners-up in the places of winners that were just taken back; each place is asked once."""
        contests = list(profile.contests)
        for index, (then, now) in enumerate(zip(before, contests, strict=True)):
            is_lost = then.selection.winner != ORIGINAL and now.selection.winner == ORIGINAL
            # What lies between measured shapes follows from those.
            if not (is_lost and now.seen) or index in asked or self._is_late:
                continue
            asked.add(index)
            found = self.runner_up(then)
            if found is not None:
                contests[index] = in_the_place_of(found, now)
        return replace(profile, contests=tuple(contests))

    def _timed(
        self, profile: Profile, steps: Sequence[Step], plan: Plan, most_s: float | None = None
    ) -> tuple[StepResult, ...]:
        seconds = SECONDS if most_s is None else min(most_s, SECONDS)
        if self.ends_s is not None:
            # Half of what is left: winners that are taken back are timed without again.
            seconds = min(seconds, max(0.0, self.ends_s - now_s()) / (2 * len(steps)))
        return time_steps(
            self.model, steps, profile, plan, self.clock, self.tell,
            seed=self.seed, seconds=seconds, runner=self.runner,
        )  # fmt: skip

    def _plan(self, profile: Profile) -> Plan:
        if not profile.winners:
            return Plan()
        plan = plan_profile(self.model, profile, profile.device, profile.mode, self.registry)
        if unbound := plan.unbound(profile.winners):
            raise StaleProfileError("; ".join(unbound))
        return plan

    def _bindable(self, profile: Profile) -> Profile:
        """The profile without winners whose layers are others now than in their calls, as a counter makes them."""
        if not profile.winners:
            return profile
        stale = plan_profile(self.model, profile, profile.device, profile.mode, self.registry).entries
        contests = []
        for contest in profile.contests:
            why = next((entry.what for entry in stale if entry.is_of(contest)), "")
            lost = why and contest.selection.winner != ORIGINAL
            reason = f"taken back: it cannot be bound again, {why}"
            contests.append(keep_original(contest, reason, "taken back") if lost else contest)
        return _left(profile, contests)

    @property
    def _is_late(self) -> bool:
        return self.ends_s is not None and now_s() >= self.ends_s


def _left(profile: Profile, contests: Sequence[Contest]) -> Profile:
    return replace(profile, contests=without_orphans(contests))


def _saved(profile: Profile, slot: str) -> float:
    return saved([contest for contest in profile.contests if contest.slot.name == slot], profile.aim)
