"""The main job: from a model and example inputs to a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch
from torch import nn

from twinkle_tune.capture.capture import Capture, Observation, capture
from twinkle_tune.capture.step import Step, make_steps
from twinkle_tune.device import is_available, parse_device, torch_type
from twinkle_tune.environment import Environment, current_environment
from twinkle_tune.errors import DeviceError, TuneError, TuneInterrupted
from twinkle_tune.kernel.find import find_slots
from twinkle_tune.kernel.kernelize import kernelize_report
from twinkle_tune.kernel.registry import Registry, default_registry
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.measure.roof import measured_roof
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.past import Question
from twinkle_tune.profile.schema import Contest, Profile, StepResult
from twinkle_tune.profile.store import Store
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.tune import settle
from twinkle_tune.tune.budget import Budget, budget_of
from twinkle_tune.tune.choose import Placed, choose_nested, verdict_of
from twinkle_tune.tune.compiling import mode_with, uncapped
from twinkle_tune.tune.confirm import confirmed
from twinkle_tune.tune.contest import InProcess
from twinkle_tune.tune.entrants import check_wanted, entrants_of
from twinkle_tune.tune.events import Captured, ContestAdded, ContestFinished, ContestStarted, Event, Listener
from twinkle_tune.tune.facts import model_facts
from twinkle_tune.tune.flags import flags_kept
from twinkle_tune.tune.journal import Header, Journal
from twinkle_tune.tune.memory import TOOL, Memory, question_of, settings_of
from twinkle_tune.tune.order import savings_us
from twinkle_tune.tune.refine import Between, next_between, observed_at
from twinkle_tune.tune.settle import Whole
from twinkle_tune.tune.task import Executor, Task
from twinkle_tune.tune.whole import runner_of
from twinkle_tune.workload import call_text


def tune_model(
    model: nn.Module,
    example_inputs: object,
    *,
    mode: object = "inference",
    device: object = None,
    name: str | None = None,
    candidates: Sequence[str] | None = None,
    budget_s: float | None = None,
    settings: RaceSettings | None = None,
    seed: int = 0,
    on_event: Listener | None = None,
    registry: Registry | None = None,
    executor: Executor | None = None,
    journal: Journal | None = None,
    store: Store | None = None,
    attention: bool = False,
    dynamic: bool | None = None,
) -> Profile:
    """Find out which kernels are right and faster on a model, and say so in a profile.

    The model is left as it was: weights, gradients, training flags, functions.

    Args:
        model: any module, on ``device``.
        example_inputs: a tensor, a tuple of positional arguments, a dict of keyword arguments, or a list of
            these for several shapes. Causal language models of transformers are run as prefill and decode.
        mode: "inference", "train", "compile", "train+compile" or a ``kernels.Mode``.
        device: by default that of the model's parameters.
        name: what the profile calls the model; its class's name by default.
        candidates: only candidates of these names, kinds or name prefixes ("torch", "compile"); all by default.
        budget_s: seconds that the run may take. The contests that can save most come first; those that are left
            when their time is over keep the original, and the last seconds are for the whole model.
        settings: of the race.
        seed: of made inputs and of the order of the rounds.
        on_event: told what happens while it goes on (:mod:`twinkle_tune.tune.events`).
        registry: what is registered; the default registry if not given.
        executor: where contests run; in this process if not given. An :class:`~twinkle_tune.tune.isolated.Isolated`
            runs them in a worker process, so that a candidate that crashes or hangs is refused and no more.
        journal: gets the finished contests as they come, gives those of a run that was not finished.
        store: past outcomes of any model, which are taken where they answer the same question, and added to.
        attention: whether a transformers model's attention implementations compete too. Each of their calls is one of
            the whole model, and checking them takes room for a float64 copy of it (training: for gradients as well).
        dynamic: in the compile modes torch.compile's argument of that name, as the model will run.

    Raises:
        CaptureError: the model cannot be run on the inputs.
        DeviceError, ModeError, RegistrationError: unknown or unavailable device, mode, candidates.
        JournalError: the journal cannot be read or written, or is of another run; StoreDamagedError.
        TuneInterrupted: Ctrl-C; it carries a profile of what was finished.
    """
    run = _Run(
        model=model,
        mode=mode_with(mode, dynamic),
        device=_available(device, model),
        name=name or type(model).__name__,
        wanted=candidates,
        budget=Budget(),
        settings=settings or RaceSettings(),
        seed=seed,
        tell=on_event or _nobody,
        registry=registry or default_registry,
        executor=executor or InProcess(),
        memory=Memory(journal, store),
        attention=attention,
        dynamic=dynamic,
    )
    if kernelize_report(model).bound:
        raise TuneError("the model has kernels bound, expected its originals; call restore_model(model) first")
    with flags_kept(model, run.mode):
        steps = make_steps(model, example_inputs, run.mode, run.device)
        return _tune(replace(run, budget=budget_of(budget_s, len(steps), settle.SECONDS)), steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    model: nn.Module
    mode: Mode
    device: str
    name: str
    wanted: Sequence[str] | None
    budget: Budget
    settings: RaceSettings
    seed: int
    tell: Listener
    registry: Registry
    executor: Executor
    memory: Memory
    attention: bool = False
    dynamic: bool | None = None

    def question(self, observation: Observation, entrants: Sequence[Candidate], environment: Environment) -> Question:
        """What a contest of this run would answer."""
        here = environment.fingerprint
        return question_of(observation, entrants, self.mode, self.device, here, self.settings, self.dynamic)


def _tune(run: _Run, steps: Sequence[Step]) -> Profile:
    environment = current_environment(run.device)
    targets = find_slots(run.model, run.registry, attention=run.attention)
    seen = capture(run.model, steps, targets, run.device, blocks=run.mode.compiles)
    entrants = {id(o): entrants_of(o, run.device, run.mode, run.registry, run.wanted) for o in seen.observations}
    check_wanted(run.wanted, [c for found in entrants.values() for c in found], run.device, run.mode)
    questions = {id(o): run.question(o, entrants[id(o)], environment) for o in seen.observations}
    if run.memory.journal is not None:
        run.memory.journal.begin(_header(run, environment, tuple(questions.values())))
    ordered = _by_savings(run, seen)
    run.tell(
        Captured(
            candidates=tuple(len(entrants[id(o)]) for o in ordered),
            steps=tuple(step.label for step in steps),
            uncalled=tuple(sorted(seen.uncalled)),
            whole_s=settle.SECONDS * len(steps),
        )
    )
    placed: list[Placed] = []
    try:
        for index, observation in enumerate(ordered, start=1):
            contest = _contest(run, index, observation, entrants[id(observation)], questions[id(observation)])
            placed.append(Placed(contest=contest, inside=observation.inside))
            run.tell(ContestFinished(index=index, contest=contest))
        _look_between(run, environment, ordered, entrants, placed)
        profile = _profile(run, environment, seen, choose_nested(_ordered(placed)), complete=True)
        whole = Whole(
            model=run.model,
            steps=tuple(steps),
            clock=clock_for(run.device),
            registry=run.registry,
            tell=run.tell,
            seed=run.seed,
            ends_s=run.budget.ends_s,
            runner=runner_of(run.model, run.mode, run.dynamic),
        )
        with uncapped(compiles=run.mode.compiles):
            return whole.settled(profile)
    except KeyboardInterrupt as error:
        chosen = choose_nested(_ordered(placed))
        partial = _profile(run, environment, seen, chosen, complete=False) if placed else None
        raise TuneInterrupted(partial) from error


def _look_between(
    run: _Run,
    environment: Environment,
    observations: Sequence[Observation],
    entrants: Mapping[int, tuple[Candidate, ...]],
    placed: list[Placed],
) -> None:
    """Hold a few contests more, between shapes with different winners, and add them to ``placed``."""
    if run.mode.compiles:
        return  # the slot's call can be cut to fewer rows, that of the block around it cannot
    known = {(o.slot.name, o.workload.key): (o, entrants[id(o)]) for o in observations}
    without: set[Between] = set()
    while not run.budget.is_used_up:
        gap = next_between([each.contest for each in placed], without)
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
        contest = _contest(run, len(placed) + 1, found, chosen, question)
        placed.append(Placed(contest=contest, inside=found.inside))
        run.tell(ContestFinished(index=len(placed), contest=contest))


def _ordered(placed: Sequence[Placed]) -> list[Placed]:
    # Not as they were held, which goes by measured shares: the same outcomes must give the same choice.
    return sorted(placed, key=lambda p: (p.contest.slot.name, p.contest.workload.key))


def _header(run: _Run, environment: Environment, questions: tuple[Question, ...]) -> Header:
    return Header(
        tool=TOOL,
        model=model_facts(run.model, run.name),
        mode=run.mode,
        device=run.device,
        environment=environment,
        settings=settings_of(run.settings),
        seed=run.seed,
        contests=questions,
        dynamic=run.dynamic,
    )


def _contest(
    run: _Run, index: int, observation: Observation, entrants: tuple[Candidate, ...], question: Question
) -> Contest:
    run.tell(
        ContestStarted(
            index=index,
            slot=observation.slot.name,
            call=call_text(observation.workload),
            candidates=tuple(candidate.name for candidate in entrants),
        )
    )
    known = run.memory.recall(question, observation)
    if known is not None:
        return known
    if run.budget.is_used_up:
        return Contest(
            slot=observation.slot,
            instances=observation.instances,
            seen=observation.seen,
            workload=observation.workload,
            trials=(),
            selection=Selection(winner=ORIGINAL, reason="not tried: the time budget was used up"),
        )
    task = Task(
        observation=observation,
        candidates=entrants,
        mode=run.mode,
        device=run.device,
        settings=run.settings,
        seed=run.seed,
        deadline_s=run.budget.contests_left_s,
        tunes=True,
        dynamic=run.dynamic,
    )
    contest = run.executor.run(task, run.tell)
    contest = confirmed(contest, replace(task, deadline_s=run.budget.left_s), run.executor, run.tell)
    # What the budget cut short is no outcome for another run, whose budget is another.
    if not run.budget.is_used_up:
        run.memory.keep(question, contest)
    return contest


def _profile(
    run: _Run, environment: Environment, seen: Capture, contests: Sequence[Contest], *, complete: bool
) -> Profile:
    ordered = tuple(sorted(contests, key=lambda c: (c.slot.name, c.workload.rows, c.workload.key)))
    verdict = verdict_of(ordered, ())
    if not complete:
        verdict = f"Interrupted after {len(ordered)} of {len(seen.observations)} contests. {verdict}"
    return Profile(
        tool=TOOL,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        complete=complete,
        model=model_facts(run.model, run.name),
        mode=run.mode,
        device=run.device,
        environment=environment,
        verdict=verdict,
        steps=tuple(StepResult(label=label) for label, _ in seen.step_us),
        contests=ordered,
        uncalled=tuple(sorted(seen.uncalled)),
        dynamic=run.dynamic,
    )


def _by_savings(run: _Run, seen: Capture) -> list[Observation]:
    """The observations, those that can save most first: a budget that runs out then costs least."""
    parameter = next(run.model.parameters(), None)
    place = torch.device(torch_type(run.device)) if parameter is None else parameter.device
    roof = measured_roof(place, torch.float32 if parameter is None else parameter.dtype)
    step_us = dict(seen.step_us)
    return sorted(seen.observations, key=lambda o: savings_us(o, step_us, roof), reverse=True)


def _available(device: object, model: nn.Module) -> str:
    parameter = next(model.parameters(), None)
    here = "cpu" if parameter is None else parameter.device.type
    name = parse_device(here if device is None else device)
    if device is None and name == "cuda" and torch.version.hip is not None:
        name = "rocm"
    if not is_available(name):
        raise DeviceError(f"device {name!r} is not available here, expected one that torch can use; pass device='cpu'")
    if torch_type(name) != here and parameter is not None:
        raise DeviceError(
            f"device: got {name!r} for a model on {here!r}; move the model with model.to({torch_type(name)!r})"
        )
    return name


def _nobody(event: Event) -> None:
    pass
