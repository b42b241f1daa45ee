"""A run: what it was asked for, and how it holds its contests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from twinkle_tune.capture.capture import Observation
from twinkle_tune.contest.selected import NO_BLOCK, NOT_TRIED
from twinkle_tune.environment import Environment
from twinkle_tune.errors import TuneError
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.past import Question
from twinkle_tune.profile.schema import Contest, Found
from twinkle_tune.profile.setup import CompiledStep
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.terms import Terms
from twinkle_tune.tune.budget import Budget
from twinkle_tune.tune.choose import Placed
from twinkle_tune.tune.confirm import confirmed, next_confirmed
from twinkle_tune.tune.events import ContestAdded, ContestFinished, ContestStarted, Listener
from twinkle_tune.tune.executor import Executor
from twinkle_tune.tune.holding import Holding, drive, hold_all
from twinkle_tune.tune.left_out import is_left_out
from twinkle_tune.tune.little import Little
from twinkle_tune.tune.memory import Memory, question_of
from twinkle_tune.tune.neighbour import Neighbour, without_rivals
from twinkle_tune.tune.refine import Between, next_between, observed_at
from twinkle_tune.tune.spans import Spans
from twinkle_tune.tune.split import unheld_if_split
from twinkle_tune.tune.task import Task
from twinkle_tune.workload import call_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What :func:`twinkle_tune.tune.tune.tune_model` was asked for.

    ``spans`` hears what the run tells, and knows where its time goes. ``little`` is what is let go since it could save
    next to nothing. ``tasks`` are the contests that were held, by
    slot, workload and instances: for whoever has another turn in one.
    """

    model: nn.Module
    terms: Terms
    name: str
    wanted: Sequence[str] | None
    budget: Budget
    tell: Listener
    registry: Registry
    executor: Executor
    memory: Memory
    spans: Spans = field(default_factory=Spans)
    attention: bool = False
    head: bool = False
    ways: bool = False
    calls: int | None = None
    neighbour: Neighbour | None = None
    little: Little = field(default_factory=Little)
    tasks: dict[tuple[str, str, tuple[str, ...]], Task] = field(default_factory=dict)

    def tries_sizes(self, label: str, ways: Sequence[CompiledStep]) -> bool:
        """Whether the way that won a step is tried at other sizes in this run; ``ways`` are what came of them."""
        remembers = self.memory.store is not None
        return self.neighbour is None or not remembers or self.neighbour.tries_sizes(label, ways)

    def question(self, observation: Observation, entrants: Sequence[Candidate], environment: Environment) -> Question:
        """What a contest of this run would answer."""
        return question_of(observation, entrants, self.terms, environment.fingerprint)


def hold_each(
    run: Run,
    observations: Sequence[Observation],
    entrants: Mapping[int, tuple[Candidate, ...]],
    questions: Mapping[int, Question],
    placed: list[Placed],
) -> None:
    """Hold the contests of all observations, and add each to ``placed`` once it and those before it have ended."""

    def ended(index: int, contest: Contest) -> None:
        observation = observations[index - 1]
        decided = run.little.decided(observation, contest)
        placed.append(Placed(contest=decided, inside=observation.inside))
        run.tell(ContestFinished(index=index, contest=decided))

    each = enumerate(observations, start=1)
    holdings = ((index, holding(run, index, o, entrants[id(o)], questions[id(o)])) for index, o in each)
    hold_all(run.executor, holdings, run.tell, ended)


def hold(
    run: Run, index: int, observation: Observation, entrants: tuple[Candidate, ...], question: Question
) -> Contest:
    """Hold one contest to its end."""
    found: list[Contest] = []
    going = holding(run, index, observation, entrants, question)
    hold_all(run.executor, [(index, going)], run.tell, lambda index, contest: found.append(contest))
    return run.little.decided(observation, found[0])


def holding(
    run: Run, index: int, observation: Observation, entrants: tuple[Candidate, ...], question: Question
) -> Holding:
    """A contest whose winner is timed again; or what is known of it."""
    run.tell(
        ContestStarted(
            index=index,
            slot=observation.slot.name,
            call=call_text(observation.workload),
            candidates=tuple(candidate.name for candidate in entrants),
        )
    )
    is_chosen = run.neighbour is not None and run.neighbour.is_chosen(observation, entrants)
    task = Task(
        observation=observation,
        candidates=entrants,
        terms=run.terms,
        tunes=True,
        further="all" if is_chosen else "kept",
        index=index,
        environment=question.environment,
    )
    run.tasks[observation.slot.name, observation.workload.key, observation.instances] = task
    if run.neighbour is not None and len(entrants) == 1:
        return without_rivals(observation)
    if (split := unheld_if_split(observation)) is not None:
        return split
    found = run.memory.recall(question, observation)
    if found is None and (unheld := run.little.unheld(observation)) is not None:
        return unheld
    if found is None and (run.budget.is_used_up or is_left_out(run.budget, observation, entrants)):
        why = NOT_TRIED if run.budget.is_used_up else NO_BLOCK
        lost = Selection(winner=ORIGINAL, reason=why, status="not tried")
        return observation.contest(Found(trials=(), selection=lost))
    contest = found or (yield replace(task, deadline_s=run.budget.contests_left_s))
    # What was recalled has its second race behind it, unless it was too little to matter where it was held. Where
    # contests do not end in their order, what is too little is known when all have ended.
    is_little = run.executor.in_order and run.little.is_little(observation, contest)
    if not (contest.confirmation or is_little or is_chosen):
        second = replace(task, deadline_s=run.budget.left_s)
        contest = yield from confirmed(contest, second, run.executor.elsewhere, run.tell)
    # What the budget cut short is no outcome for another run, whose budget is another. What is too little here may be
    # more elsewhere: its winner is remembered.
    if contest is not found and contest.trials and contest.is_whole and not run.budget.is_used_up:
        run.memory.keep(question, contest)
    return contest


def runner_up(run: Run, contest: Contest) -> Contest | None:
    """The contest with the runner-up of its winner in that one's place; None where there is none, or nothing in it."""
    task = run.tasks[contest.slot.name, contest.workload.key, contest.instances]
    if not run.little.is_worth_more(task.observation, contest):
        return None
    second = replace(task, deadline_s=run.budget.left_s)
    try:
        return drive(run.executor, next_confirmed(contest, second, run.executor.elsewhere, run.tell), run.tell)
    except TuneError:
        return None  # it cannot be run any more: nothing is known of the runner-up


def look_between(
    run: Run,
    environment: Environment,
    observations: Sequence[Observation],
    entrants: Mapping[int, tuple[Candidate, ...]],
    placed: list[Placed],
) -> None:
    """Hold a few contests more, between shapes with different winners, and add them to ``placed``."""
    if run.terms.mode.compiles:
        return  # the slot's call can be cut to fewer rows, that of the block around it cannot
    known = {(o.slot.name, o.workload.key): (o, entrants[id(o)]) for o in observations}
    without: set[Between] = set()

    def is_worth(contest: Contest) -> bool:
        return run.little.is_worth_more(known[contest.slot.name, contest.workload.key][0], contest)

    while not run.budget.is_used_up:
        gap = next_between([each.contest for each in placed], without, is_worth)
        if gap is None:
            return
        larger, competing = known[gap.slot, gap.larger]
        found = observed_at(larger, gap.rows)
        if found is None or (gap.slot, found.workload.key) in known:
            without.add(gap)
            continue
        known[gap.slot, found.workload.key] = found, competing
        chosen = tuple(c for c in competing if c.name in gap.names)
        question = run.question(found, chosen, environment)
        run.tell(ContestAdded(candidates=len(chosen)))
        contest = hold(run, len(placed) + 1, found, chosen, question)
        placed.append(Placed(contest=contest, inside=found.inside))
        run.tell(ContestFinished(index=len(placed), contest=contest))
