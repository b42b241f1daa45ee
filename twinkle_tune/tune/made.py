"""The profile that a run makes of what it has: while it goes on, when it is over, and when somebody ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from twinkle_tune.capture.capture import Capture
from twinkle_tune.environment import Environment
from twinkle_tune.profile.run import RunFacts
from twinkle_tune.profile.schema import Contest, Profile, StepResult
from twinkle_tune.profile.shares import with_shares
from twinkle_tune.slot import Candidate
from twinkle_tune.tune.course import run_facts
from twinkle_tune.tune.facts import model_facts
from twinkle_tune.tune.run import Run
from twinkle_tune.tune.settle import SECONDS
from twinkle_tune.tune.verdict import verdict_of
from twinkle_tune.version import TOOL


def profile_of(run: Run, environment: Environment, seen: Capture, contests: Sequence[Contest]) -> Profile:
    """The profile of contests that are over, before the whole model was run with their winners."""
    ordered = tuple(sorted(contests, key=lambda c: (c.slot.name, c.workload.rows, c.workload.key)))
    return Profile(
        tool=TOOL,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        complete=True,
        model=model_facts(run.model, run.name, run.registry),
        mode=run.terms.mode,
        device=run.terms.device,
        environment=environment,
        objective=run.terms.aim.objective,
        slowdown=run.terms.aim.slowdown,
        verdict=verdict_of(ordered, (), run.terms.aim),
        steps=tuple(StepResult(label=label, alone_us=times_us) for label, times_us in _alone(seen).items()),
        contests=ordered,
        uncalled=tuple(sorted(seen.uncalled)),
        dynamic=run.terms.dynamic,
        accumulate=run.terms.accumulate,
    )


def with_left_out(profile: Profile, left_out: Sequence[tuple[str, str]]) -> Profile:
    """The profile, with the steps that the model does not take as we make them."""
    results = (StepResult(label=label, left_out=f"the model does not take it ({why})") for label, why in left_out)
    return replace(profile, steps=(*profile.steps, *results))


def ended(run: Run, profile: Profile, seen: Capture, contests_s: float) -> Profile:
    """The profile of a run that is over: with how it went and the shares by its own times, and what follows from that.

    Args:
        run: of the profile.
        profile: with the whole model's figures.
        seen: what the model was seen to do.
        contests_s: seconds that the contests took.
    """

    def entered(contest: Contest) -> Sequence[Candidate]:
        task = run.tasks.get((contest.slot.name, contest.workload.key, contest.instances))
        return () if task is None else task.candidates

    def recalled(contest: Contest) -> bool:
        return (contest.slot.name, contest.workload.key, contest.instances) in run.memory.recalled

    facts = run_facts(
        profile.contests,
        lambda contest: len(entered(contest)),
        torch=lambda contest: sum(candidate.source.kind == "torch" for candidate in entered(contest)),
        recalled=recalled,
        took_s=run.budget.took_s,
        contests_s=contests_s,
        budget_s=run.budget.seconds,
        whole_s=2 * SECONDS * len(profile.steps),
    )
    cut_short = run.budget.seconds is not None and any(step.cause == "not timed" for step in profile.compiled)
    left = [setup.label for setup in profile.setups if not run.tries_sizes(setup.label, profile.compiled)]
    facts = replace(
        facts,
        calls=run.calls,
        stopped="budget" if cut_short else facts.stopped,
        recalled_whole=run.memory.recalled_whole,
        spans=run.spans.so_far(),
        started_from="" if run.neighbour is None else run.neighbour.told(profile.contests, profile.setups, left),
    )
    found = verdict_of(profile.contests, profile.steps, profile.aim, facts)
    # Where the whole model runs another way, its verdict says so; of the contests one that was stopped tells.
    verdict = " ".join([*([found] if facts.stopped else []), profile.verdict]) if profile.setups else found
    return _shared_out(replace(profile, run=facts, complete=not facts.stopped, verdict=verdict), seen)


def _shared_out(profile: Profile, seen: Capture) -> Profile:
    """The profile with each step's own times, and the shares by them."""
    alone = _alone(seen)
    steps = tuple(replace(step, alone_us=alone.get(step.label, ())) for step in profile.steps)
    return with_shares(replace(profile, steps=steps))


def _interrupted(run: Run) -> RunFacts:
    return RunFacts(
        took_s=round(run.budget.took_s, 1),
        budget_s=run.budget.seconds,
        stopped="interrupted",
        spans=run.spans.so_far(),
    )


def _alone(seen: Capture) -> dict[str, tuple[float, ...]]:
    return {label: tuple(round(t, 2) for t in times_us) for label, times_us in seen.alone_us}


def interrupted(run: Run, environment: Environment, seen: Capture, contests: Sequence[Contest]) -> Profile:
    """What was finished when somebody ended the run."""
    profile = with_shares(profile_of(run, environment, seen, contests))
    won = f"So far: {profile.verdict}" if profile.winners else "No conclusion yet."
    head = f"Interrupted after {len(contests)} of {len(seen.observations)} contests."
    return replace(profile, run=_interrupted(run), complete=False, verdict=f"{head} {won}")


def interrupted_late(run: Run, profile: Profile, seen: Capture) -> Profile:
    """What a run had come to when it was ended while ways of running the whole model competed: all but those."""
    verdict = f"Interrupted before all ways of running the whole model were timed. {profile.verdict}"
    made = _shared_out(replace(profile, run=_interrupted(run), complete=False, verdict=verdict), seen)
    return with_left_out(made, seen.left_out)
