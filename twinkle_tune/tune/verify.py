"""A profile held against the present: is each winner still what it was, still right, still faster or smaller?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from twinkle_tune.capture.capture import Observation, capture
from twinkle_tune.capture.hosts import NONE, find_hosts
from twinkle_tune.capture.step import make_steps
from twinkle_tune.contest.selected import INCONCLUSIVE
from twinkle_tune.environment import changes, current_environment
from twinkle_tune.errors import TuneError
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.kernel.kernelize import kernelize_report
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.kernel.registry import Registry, default_registry
from twinkle_tune.kernel.resolve import Stale
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.measure.smallest import is_smaller, memory_ratio, not_smaller
from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.objective import BY_TIME, Aim
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.slot import ATTENTION, HEAD, ORIGINAL, Candidate, SlotKind
from twinkle_tune.source.tried import as_tried
from twinkle_tune.terms import Terms
from twinkle_tune.tune.autocast import autocast_to
from twinkle_tune.tune.events import Captured, ContestFinished, ContestStarted, Listener, nobody
from twinkle_tune.tune.executor import Executor, only
from twinkle_tune.tune.flags import without_trace
from twinkle_tune.tune.in_process import InProcess
from twinkle_tune.tune.task import Task
from twinkle_tune.tune.verify_setups import SetupCheck, check_setups
from twinkle_tune.workload import call_text

SETTINGS = RaceSettings(min_gain=0.005, indifference=0.0)
"""A winner was 2% faster once; it fails when it is not faster any more, not when it is a little less so."""

Kind = Literal["stale", "wrong", "slow", "large", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an entry does not hold: its code or surroundings changed, its result is wrong, it is not faster or smaller.

    "inconclusive" is an entry of which nothing can be said: its original cannot be called or checked against here.
    By memory it may be slow: "large" is who is not clearly smaller any more. Balanced, "slow" is whose median is over
    the profile's slowdown.
    """

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One winner, here and now.

    Attributes:
        contest: as the profile has it.
        problems: empty where the entry holds.
        ratio, low, high: its time over the original's now, median and interval; None where it was not timed.
        memory_ratio: its peak memory over the original's now; None where one is not known.
    """

    contest: Contest
    problems: tuple[Problem, ...]
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    memory_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """All winners of a profile, here and now.

    Attributes:
        checks: one for each winner, in the profile's order.
        stale: what is stale beyond that, as the profile would be bound: its environment, other settings.
        setups: one for each way of running the whole model that won a step.
    """

    checks: tuple[Check, ...]
    stale: tuple[str, ...]
    setups: tuple[SetupCheck, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing is stale, wrong or no longer faster (by memory: smaller)."""
        failed = any(check.problems for check in self.checks) or any(check.kind for check in self.setups)
        return not self.stale and not failed


def verify_profile(
    profile: Profile,
    model: nn.Module,
    example_inputs: object,
    *,
    registry: Registry | None = None,
    settings: RaceSettings | None = None,
    seed: int = 0,
    on_event: Listener | None = None,
    executor: Executor | None = None,
) -> Verification:
    """Check each winner of a profile again: what changed, whether it is right, whether it is faster.

    By the profile's own objective: a winner by memory need not be faster, but must be smaller.

    A winner is judged by the parity rule and raced against the original alone, on calls of the model as it is
    now, under the profile's autocast; also where the environment is another than that of the profile. The model is
    left as it was.

    Args:
        profile: what to check.
        model: the model that was profiled, on the profile's device.
        example_inputs: as of :func:`twinkle_tune.tune_model`, of the shapes that were profiled.
        registry: what is registered; the default registry if not given.
        settings: of the race; by default any gain of half a percent counts.
        seed: of made inputs and of the order of the rounds.
        on_event: told what happens while it goes on.
        executor: where contests run; in this process if not given.

    Raises:
        CaptureError: the model cannot be run on the inputs.
        TuneError: the model has kernels bound.
    """
    registry, tell = registry or default_registry, on_event or nobody
    terms = replace(profile.terms, settings=settings or SETTINGS, seed=seed)
    if kernelize_report(model).bound:
        raise TuneError("the model has kernels bound, expected its originals; call restore_model(model) first")
    cast = max(profile.autocasts, default="")
    with autocast_to(cast, profile.device), without_trace(model, profile.mode):
        whole = changes(profile.environment, current_environment(profile.device))
        plan = plan_profile(model, profile, profile.device, profile.mode, registry)
        setups = tuple(check_setups(profile, plan, model, example_inputs, tell, seed=seed))
        if not profile.winners:
            return Verification(checks=(), stale=plan.stale if whole or profile.setups else (), setups=setups)
        steps = make_steps(model, example_inputs, profile.mode, profile.device, accumulate=profile.accumulate or 1)
        won = {contest.slot.name for contest in profile.winners}
        occurrences = find_slots(model, registry, attention=ATTENTION in won, head=HEAD in won)
        with_pieces = any(contest.slot.kind is SlotKind.PATTERN for contest in profile.winners)
        hosts = find_hosts(model, steps, registry) if with_pieces else NONE
        seen = capture(model, steps, occurrences, profile.device, blocks=profile.mode.compiles, hosts=hosts)
        by_key = {(o.slot, o.workload.key): o for o in seen.observations}
        # Of those that only the block around them tells apart, the one that the profile's contest was held on.
        by_block = {(o.slot, o.workload.key, "" if o.block is None else o.block.name): o for o in seen.observations}
        labels = tuple(step.label for step in seen.steps)
        tell(Captured(candidates=(2,) * len(profile.winners), steps=labels, uncalled=(), whole_s=0.0))
        checks = []
        for index, contest in enumerate(profile.winners, start=1):
            key = contest.slot, contest.workload.key
            observation = by_block.get((*key, contest.block), by_key.get(key))
            entrants = () if observation is None else _entrants(profile, contest, observation, registry)
            run = _Run(terms, tell, executor or InProcess(), index)
            checks.append(run.check(contest, observation, entrants))
    told = {str(entry) for entry in plan.entries if _is_told(entry, checks)}
    stale = tuple(text for text in plan.stale if text not in told)
    return Verification(checks=tuple(checks), stale=stale, setups=setups)


@dataclass(frozen=True, slots=True)
class _Run:
    terms: Terms
    tell: Listener
    executor: Executor
    index: int

    def check(self, contest: Contest, observation: Observation | None, entrants: tuple[Candidate, ...]) -> Check:
        """One winner against the original."""
        winner = contest.selection.winner
        if observation is None:
            why = "the model makes no such call with these inputs; is it the model, and are they the inputs?"
            return _stale(contest, why)
        if winner not in [candidate.name for candidate in entrants]:
            return _stale(contest, f"no candidate {winner!r} is registered for it here; register it, or profile again")
        self.tell(
            ContestStarted(
                index=self.index,
                slot=contest.slot.name,
                call=call_text(contest.workload),
                candidates=tuple(candidate.name for candidate in entrants),
            )
        )
        task = Task(observation=observation, candidates=entrants, terms=self.terms, index=self.index)
        now = only(self.executor, task, self.tell)
        self.tell(ContestFinished(index=self.index, contest=now))
        return compare(contest, now, self.terms.aim)


def compare(then: Contest, now: Contest, aim: Aim = BY_TIME) -> Check:
    """What a winner's contest against the original now says of the profile's entry. Pure."""
    winner = then.selection.winner
    if now.status == "inconclusive":
        why = now.selection.reason.removeprefix(f"{INCONCLUSIVE}: ")
        return Check(contest=then, problems=(Problem(kind="inconclusive", text=why),))
    problems = [
        Problem(kind="stale", text=f"the code of {name!r} changed ({then.trial(name).digest} then, {digest} now)")
        for name, digest in ((name, now.trial(name).digest) for name in (ORIGINAL, winner))
        if then.trial(name).digest != digest
    ]
    outcome, original = now.trial(winner).outcome, now.trial(ORIGINAL).outcome
    if not isinstance(outcome, Measurement) or not isinstance(original, Measurement):
        stage, reason = (outcome.stage, outcome.reason) if isinstance(outcome, Rejection) else ("timing", "no time")
        kind: Kind = "slow" if stage == "timing" else "wrong"
        return Check(contest=then, problems=(*problems, Problem(kind=kind, text=f"{stage}: {reason}")))
    figure = paired_ratio(outcome.times_us, original.times_us)
    shown = figure.rounded()
    if aim.is_memory and not is_smaller(outcome.peak_bytes, original.peak_bytes):
        problems.append(Problem(kind="large", text=not_smaller(outcome.peak_bytes, original.peak_bytes)))
    if _is_slow(figure, aim, wins=now.selection.winner == winner):
        text = f"it takes {figure.ratio:.3f} of the original's time ({figure.low:.3f} to {figure.high:.3f})"
        was = f"it took {then.selection.ratio:.3f} when it was profiled"
        problems.append(Problem(kind="slow", text=f"{text}; {was}"))
    return Check(
        contest=then,
        problems=tuple(problems),
        ratio=shown.ratio,
        low=shown.low,
        high=shown.high,
        memory_ratio=memory_ratio(outcome.peak_bytes, original.peak_bytes),
    )


def _is_slow(figure: Ratio, aim: Aim, *, wins: bool) -> bool:
    if aim.is_memory:
        return figure.ratio > aim.most
    # Faster is what the race says, or what the interval says though the race did not find it enough.
    return not wins and figure.high >= 1


def _entrants(
    profile: Profile, contest: Contest, observation: Observation, registry: Registry
) -> tuple[Candidate, ...]:
    found = contestants(observation.occurrence, profile.device, profile.mode, registry)
    return tuple(
        replace(candidate, source=as_tried(candidate.source, contest.trial(candidate.name)))
        for candidate in found
        if candidate.name in (ORIGINAL, contest.selection.winner)
    )


def _is_told(entry: Stale, checks: Sequence[Check]) -> bool:
    """Whether a check says already that its entry is stale."""
    return any(
        entry.is_of(check.contest) for check in checks if any(problem.kind == "stale" for problem in check.problems)
    )


def _stale(contest: Contest, why: str) -> Check:
    return Check(contest=contest, problems=(Problem(kind="stale", text=why),))
