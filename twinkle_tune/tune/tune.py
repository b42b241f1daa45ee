"""The main job: from a model and example inputs to a profile."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from twinkle_tune.capture.capture import capture
from twinkle_tune.capture.held_out import Tried, tried_steps
from twinkle_tune.capture.hosts import NONE, find_hosts
from twinkle_tune.capture.optimizer import OptimizerFactory
from twinkle_tune.capture.step import Step, make_steps
from twinkle_tune.catalog.block import BLOCK
from twinkle_tune.catalog.head import head_place
from twinkle_tune.contest.compiling import mode_with, uncapped
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import TuneError, TuneInterrupted
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.kernel.kernelize import kernelize_report
from twinkle_tune.kernel.planned import not_a_module
from twinkle_tune.kernel.registry import Registry, default_registry
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.mode import Mode
from twinkle_tune.objective import parse_aim
from twinkle_tune.profile.outcomes import Outcomes
from twinkle_tune.profile.schema import Profile
from twinkle_tune.search.possible import check_search_is_possible
from twinkle_tune.terms import Terms
from twinkle_tune.tune import made, settle
from twinkle_tune.tune.asking import asking
from twinkle_tune.tune.budget import Budget, budget_of, seconds_of
from twinkle_tune.tune.choose import Placed, choose_nested
from twinkle_tune.tune.entrants import check_wanted, is_ours, only_wanted
from twinkle_tune.tune.events import Captured, Listener
from twinkle_tune.tune.executor import Executor
from twinkle_tune.tune.facts import model_facts
from twinkle_tune.tune.flags import without_trace
from twinkle_tune.tune.group import check_alike, check_group, contests_told, run_told, tuned_by
from twinkle_tune.tune.in_process import InProcess
from twinkle_tune.tune.journal import Journal, header_of
from twinkle_tune.tune.left_out import is_left_out, left_out_notes
from twinkle_tune.tune.little import little_of
from twinkle_tune.tune.memory import memory_of
from twinkle_tune.tune.neighbour import Neighbour
from twinkle_tune.tune.order import bounds_of, by_savings
from twinkle_tune.tune.place import available, check_memory_is_told
from twinkle_tune.tune.progress import heard
from twinkle_tune.tune.run import Run, hold_each, look_between, runner_up
from twinkle_tune.tune.seen import as_first
from twinkle_tune.tune.settle import Whole
from twinkle_tune.tune.setups import settled_with_ways, ways_alone
from twinkle_tune.tune.spans import Spans
from twinkle_tune.tune.split import check_not_split
from twinkle_tune.tune.ways import Ways
from twinkle_tune.tune.whole import optimizer_of, release_optimizers, runner_of


def tune_model(
    model: nn.Module,
    example_inputs: object,
    *,
    mode: object = "inference",
    device: object = None,
    name: str | None = None,
    candidates: Sequence[str] | str | None = None,
    budget_s: float | str | None = None,
    settings: RaceSettings | None = None,
    seed: int = 0,
    on_event: Listener | None = None,
    progress: bool | None = None,
    registry: Registry | None = None,
    executor: Executor | None = None,
    journal: Journal | None = None,
    store: Outcomes | None = None,
    attention: bool = False,
    head: bool | None = None,
    ways: bool = False,
    calls: int | None = None,
    objective: object = "time",
    slowdown: float | None = None,
    optimizer: OptimizerFactory | bool = True,
    dynamic: bool | None = None,
    accumulate: int = 1,
    neighbour: Neighbour | None = None,
    group: object = None,
) -> Profile:
    """Find out which kernels are right and faster, or smaller, on a model, and say so in a profile.

    The model is left as it was, after an error or Ctrl-C as well: weights, buffers, plain attributes, gradients,
    training flags, functions, and the process's streams of random numbers and settings. Hooks that get a parameter's
    finished gradient (``register_post_accumulate_grad_hook``) do not run meanwhile. A model that is in the mode already
    keeps each module's own training flag, so that frozen layers stay frozen. What the original raises when it is run
    apart makes that contest inconclusive, with the cause; a step that was made up (a decode step) and that the model
    does not take is left out with a note.

    Args:
        model: any module, on ``device``.
        example_inputs: a tensor, a tuple of positional arguments, a dict of keyword arguments, or a list of
            these for several shapes. Causal language models of transformers are run as prefill and decode.
        mode: "inference", "train", "compile", "train+compile" or a ``kernels.Mode``.
        device: by default that of the model's parameters.
        name: what the profile calls the model; its class's name by default.
        candidates: only candidates of these names, kinds or name prefixes (["torch", "compile"], or "torch"); all by
            default.
        budget_s: seconds that the run may take, or a text such as "90s" or "5m". The contests that can save most come
            first; those that are left when their time is over keep the original, and the last seconds are for the
            whole model. Ways have half of it, before them.
        settings: of the race.
        seed: of made inputs and of the order of the rounds.
        on_event: told what happens while it goes on (:mod:`twinkle_tune.tune.events`).
        progress: whether a line is printed for each finished contest; by default in a terminal and in a notebook, where
            nobody else is told by ``on_event``.
        registry: what is registered; the default registry if not given.
        executor: where contests run; in this process if not given. An :class:`~twinkle_tune.tune.isolated.Isolated`
            runs them in a worker process, so that a candidate that crashes or hangs is refused and no more.
        journal: gets the finished contests as they come, gives those of a run that was not finished.
        store: past outcomes of any model, which are taken where they answer the same question, and added to.
        attention: whether a transformers model's attention implementations compete too. Each of their calls is one of
            the whole model, and checking them takes room for a float64 copy of it (training: for gradients as well).
        head: whether in the mode "train" the last layer and the loss of a transformers language model compete as one
            (:mod:`twinkle_tune.catalog.head`). Each of its calls is one of the whole model, too. By default they do
            where the objective is one by memory and the model has such a head, but not beside ``attention``.
        ways: whether ways of running the whole model compete as well, in the modes "inference" and "train":
            compiled as it is, for dynamic shapes, and block by block, without and with the kernels that won. Those that
            gain most are in the profile, beside the kernels.
        calls: how often each step will be run, at least 1: a way wins that takes the least time for all of them,
            compiling included. By default compiling is not counted.
        objective: "time": the fastest wins; "memory": the one with the smallest peak memory; "balanced": the smallest
            of those that take at most ``slowdown`` times the original's time.
        slowdown: of the objective "balanced" alone, at least 1; 1.1 (10% more time) by default.
        optimizer: in the train modes, what makes the optimizer whose step is part of the timed training step, of a list
            of parameters; True for ``torch.optim.AdamW``, False for none. It works on copies of the parameters. Where
            its state does not fit the memory, or it raises, the step is timed without it, and the profile says so.
        dynamic: in the compile modes torch.compile's argument of that name, as the model will run.
        accumulate: in the train modes, micro-batches of a training step, whose gradients add up before the optimizer's.
        neighbour: a profile of this model from another machine: for each call that it decided, only its winner competes
            with the original, so that the run has fewer contests.
        group: a process group of torch.distributed (``torch.distributed.group.WORLD``), whose processes all call this
            with the same model, on inputs of the same shapes: each times every candidate, the times are averaged, what
            one rejects all reject, and all get the same profile. Not with ``ways`` or ``executor``. Journal and store
            are rank 0's.

    Raises:
        CaptureError: the model cannot be run on the inputs.
        DeviceError, ModeError, RegistrationError: unknown or unavailable device, mode, candidates; no mode for it.
        TuneError: ``calls`` without ``ways``, or below 1; an executor, a registry or settings of another type; the
            processes of a group do different things.
        BindError: ``group`` is none, or this process is not in it.
        PeerError: another process of the group met an error; of this one its own is raised.
        ObjectiveError: an unknown objective, a slowdown that does not go with it, or memory that is not told here.
        JournalError: the journal is none, cannot be read or written, or is of another run; StoreError, where the store
            is none; StoreDamagedError.
        TuneInterrupted: Ctrl-C; it carries a profile of what was finished.
    """

    def found() -> Profile:
        if group is not None:
            check_group(executor=executor, ways=ways)
        if not isinstance(model, nn.Module):
            raise not_a_module(model)
        _check_kinds(executor=executor, registry=registry, settings=settings)
        if group is None:
            check_not_split((*model.parameters(), *model.buffers()))
        seconds = seconds_of(budget_s)
        terms = Terms(
            aim=parse_aim(objective, slowdown),
            mode=mode_with(mode, dynamic, accumulate),
            device=available(device, model),
            settings=settings or RaceSettings(),
            seed=seed,
            dynamic=dynamic,
            accumulate=accumulate if accumulate > 1 else None,
        )
        spans = Spans()
        run = Run(
            model=model,
            terms=terms,
            name=name or type(model).__name__,
            wanted=tuple(name.strip() for name in candidates.split(",")) if isinstance(candidates, str) else candidates,
            budget=Budget(),
            tell=heard(spans, on_event, progress),
            spans=spans,
            registry=registry or default_registry,
            executor=executor or InProcess(),
            memory=memory_of(journal, store),
            attention=attention,
            head=_competes_unasked(model, terms, attention=attention) if head is None else head,
            ways=ways,
            calls=_checked_calls(calls, ways=ways),
            neighbour=neighbour,
        )
        check_memory_is_told(terms.aim, terms.device)
        check_search_is_possible(terms.device)
        if kernelize_report(model).bound:
            raise TuneError("the model has kernels bound, expected its originals; call restore_model(model) first")
        with without_trace(model, terms.mode):
            own = optimizer_of(optimizer, terms)
            steps = make_steps(model, example_inputs, terms.mode, terms.device, own, accumulate=accumulate)
            tried = _tried(run, example_inputs, optimizer)
            return _tune(replace(run, budget=budget_of(seconds, len(steps), settle.SECONDS)), steps, tried)

    return tuned_by(group, found)


def _tried(run: Run, example_inputs: object, optimizer: OptimizerFactory | bool) -> tuple[Tried, ...]:
    """The steps in which ways of running the whole model compete; none where they do not."""
    terms = run.terms
    if not run.ways or terms.mode.compiles:
        return ()
    own, several = optimizer_of(optimizer, terms), terms.accumulate or 1
    return tried_steps(run.model, example_inputs, terms.mode, terms.device, own, accumulate=several)


def _tune(run: Run, steps: Sequence[Step], tried: Sequence[Tried]) -> Profile:
    mode, device = run.terms.mode, run.terms.device
    environment = current_environment(device)
    occurrences = find_slots(run.model, run.registry, attention=run.attention, head=run.head)
    check_alike("what is tuned", run_told(run, environment, steps, occurrences))
    hosts = NONE if mode.compiles else find_hosts(run.model, steps, run.registry)
    seen = capture(run.model, steps, occurrences, device, blocks=mode.compiles, hosts=hosts)
    steps, asks = seen.steps, asking(run, environment)
    release_optimizers(steps)
    captured = seen
    seen, bounds, begun = asks.shares(captured, lambda: bounds_of(run.model, device, captured))
    seen, bounds = as_first(seen, bounds)
    everyone = {id(o): contestants(o.occurrence, device, mode, run.registry) for o in seen.observations}
    if run.wanted is not None:
        # A name of a slot that no step calls is no mistake: it has no contest.
        every = (*occurrences, *hosts.occurrences)
        in_model = (contestants(each, device, mode, run.registry) for each in every)
        check_wanted(run.wanted, [*itertools.chain(*everyone.values(), *in_model)], device, mode)
    entrants = {key: only_wanted(found, run.wanted) for key, found in everyone.items()}
    if run.neighbour is not None:
        entrants |= {id(o): run.neighbour.only(o, entrants[id(o)]) for o in seen.observations}
    # A block that nobody competes for is but the layers inside it, which are slots themselves.
    seen = replace(
        seen, observations=tuple(o for o in seen.observations if o.slot.name != BLOCK or len(entrants[id(o)]) > 1)
    )
    questions = {id(o): run.question(o, entrants[id(o)], environment) for o in seen.observations}
    check_alike("the contests", contests_told(questions.values(), seen.observations))
    if run.memory.journal is not None:
        facts = model_facts(run.model, run.name, run.registry)
        run.memory.journal.begin(header_of(facts, environment, run.terms, questions.values()))
    begun()
    ordered = by_savings(seen, bounds)
    if not (run.terms.aim.is_memory or mode.compiles):
        ours = frozenset(id(o) for o in ordered if is_ours(o, entrants[id(o)], run.terms))
        run = replace(run, little=little_of(ordered, bounds, ours, dict(seen.step_us)))
    run.tell(
        Captured(
            candidates=tuple(len(entrants[id(o)]) for o in ordered),
            steps=tuple(step.label for step in steps),
            uncalled=tuple(sorted(seen.uncalled)),
            whole_s=settle.SECONDS * len(steps),
            budget_s=run.budget.seconds,
            notes=left_out_notes(run.budget, [o for o in ordered if is_left_out(run.budget, o, entrants[id(o)])]),
        )
    )
    placed: list[Placed] = []
    ways, settled = Ways(), None
    try:
        # They gain most, where they gain: a run whose budget ends early has them.
        if tried:
            ways = ways_alone(asks, tried, run.budget.ways_end_s)
        contests_began_s = time.monotonic()
        hold_each(run, ordered, entrants, questions, placed)
        look_between(run, environment, ordered, entrants, placed)
        contests_s = time.monotonic() - contests_began_s
        profile = made.profile_of(run, environment, seen, choose_nested(_ordered(placed), run.terms.aim))
        whole = Whole(
            model=run.model,
            steps=tuple(steps),
            clock=clock_for(device),
            registry=run.registry,
            tell=run.tell,
            seed=run.terms.seed,
            runner_up=lambda contest: runner_up(run, contest),
            ends_s=run.budget.whole_end_s(ways.compile_s),
            runner=runner_of(run.model, run.terms),
        )
        with uncapped(compiles=mode.compiles):
            settled = asks.settled(profile, steps, whole.settled)
        if tried:
            settled = settled_with_ways(asks, settled, steps, tried, ways)
    except KeyboardInterrupt as error:
        if settled is not None:
            raise TuneInterrupted(made.interrupted_late(run, replace(settled, compiled=ways.compiled), seen)) from error
        chosen = choose_nested(_ordered(placed), run.terms.aim)
        profile = replace(made.interrupted(run, environment, seen, chosen), compiled=ways.compiled)
        raise TuneInterrupted(profile if placed or ways.compiled else None) from error
    return made.with_left_out(made.ended(run, settled, seen, contests_s), seen.left_out)


def _ordered(placed: Sequence[Placed]) -> list[Placed]:
    # Not as they were held, which goes by measured shares: the same outcomes must give the same choice.
    return sorted(placed, key=lambda p: (p.contest.slot.name, p.contest.workload.key))


def _competes_unasked(model: nn.Module, terms: Terms, *, attention: bool) -> bool:
    """Whether the head and the loss do. Beside the attention they cannot: both are forwards of the same module."""
    return terms.aim.is_memory and terms.mode is Mode.TRAIN and not attention and head_place(model) is not None


def _checked_calls(calls: int | None, *, ways: bool) -> int | None:
    if calls is not None and calls < 1:
        raise TuneError(f"calls: got {calls}, expected at least 1: how often each step will be run")
    if calls is not None and not ways:
        raise TuneError(f"calls: got {calls} without ways, expected both: it decides on ways of running the model")
    return calls


def _check_kinds(*, executor: object, registry: object, settings: object) -> None:
    given = (
        ("executor", executor, Executor, "leave it out, or give an Isolated()"),
        ("registry", registry, Registry, "leave it out for the default one"),
        ("settings", settings, RaceSettings, "leave it out for the default ones"),
    )
    for name, value, kind, instead in given:
        if value is not None and not isinstance(value, kind):
            raise TuneError(f"{name}: got {value!r:.80}, expected a {kind.__name__}; {instead}")
