"""Running the model under observation: which slots are called, with what, how often and for how long.

Each step is run once to warm up, some times for its own time, once to write down its calls, and some times more to
time them: writing down (copies of arguments) would otherwise count into the time of the slots around it.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from torch import nn

from twinkle_tune.call.arguments import Call, snapshot
from twinkle_tune.capture.below import autocast_below
from twinkle_tune.capture.block import Block, BlockLog, Calls
from twinkle_tune.capture.hosts import NONE, Hosts
from twinkle_tune.capture.sites import Site, eagerly, replaced, sites_of
from twinkle_tune.capture.step import Step
from twinkle_tune.capture.taken import taken
from twinkle_tune.capture.timer import Key, Pass, Timer, repeated_us, run, run_timed, share
from twinkle_tune.catalog.attention import continues
from twinkle_tune.catalog.block import BLOCK, repeats
from twinkle_tune.device import parse_device, torch_type
from twinkle_tune.errors import in_a_line
from twinkle_tune.kernel.functions import original_function
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.profile.schema import Contest, Found, Seen
from twinkle_tune.slot import OF_THE_MODEL, Slot
from twinkle_tune.workload import Workload, observe


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All calls of one slot that look the same.

    Attributes:
        slot: the slot.
        workload: what the calls look like.
        instances: paths of the instances that were called so, in the model's order; empty for a function.
        seen: for each step that called it: calls a step over all instances, and the share of the step's time
            that passed inside the calls (0 to 1; slots inside are included, in training the backward as well).
        module: one of the instances, to make trials with; None for a function.
        call: the arguments of one call. A method's begin with its object, a classmethod's with its class.
        inside: where it was called from, over all calls: paths of instances of other layer slots, and names
            of other function slots, that were running.
        block: what the contest is held on where the model is compiled; None for the slot alone.
        why_alone: why there is no block where one was looked for; "" otherwise.
    """

    slot: Slot
    workload: Workload
    instances: tuple[str, ...]
    seen: tuple[Seen, ...]
    module: nn.Module | None
    call: Call
    inside: tuple[str, ...]
    block: Block | None = None
    why_alone: str = ""

    @property
    def occurrence(self) -> Occurrence:
        """The slot, with the instance to make trials with or the function that stands there now."""
        if self.module is None:
            return Occurrence(slot=self.slot, function=original_function(self.slot.target))
        return Occurrence(slot=self.slot, instances=((self.instances[0], self.module),))

    def contest(self, found: Found) -> Contest:
        """The contest that was held on these calls, with what came of it."""
        return Contest(
            slot=self.slot,
            instances=self.instances,
            seen=self.seen,
            workload=self.workload,
            trials=found.trials,
            selection=found.selection,
            conditions=found.conditions,
            timings=found.timings,
            timed_on=found.timed_on,
            environment=found.environment,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What was seen.

    Attributes:
        observations: ordered by slot name, then workload key.
        uncalled: places that no step called ("RMSNorm model.norm", or a function slot's name).
        step_us: label and microseconds of each step without observation, median of several runs.
        alone_us: label and microseconds of each of these runs.
        steps: those that the model was run in.
        left_out: label of each made-up step that the model does not take, and why.
    """

    observations: tuple[Observation, ...]
    uncalled: tuple[str, ...]
    step_us: tuple[tuple[str, float], ...]
    steps: tuple[Step, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    alone_us: tuple[tuple[str, tuple[float, ...]], ...] = ()


def capture(
    model: nn.Module,
    steps: Sequence[Step],
    occurrences: Sequence[Occurrence],
    device: str,
    *,
    blocks: bool = False,
    hosts: Hosts = NONE,
) -> Capture:
    """Run each step and write down every call of the slots. Model and functions are left as they were.

    Compiled code runs eagerly while it is observed; the times of the whole steps are of the model as it is. A made-up
    step that the model does not take is left out, or run as the user's inputs say.

    Args:
        model: on ``device``.
        steps: from :func:`twinkle_tune.capture.step.make_steps`.
        occurrences: the slots of the model.
        device: a device name, to wait for before a clock is read.
        blocks: whether the part of the model that repeats around each call is wanted. Calls of a layer slot that lie
            in different classes of such parts, or in none, are then different observations.
        hosts: whose pieces are slots, too: they stand in them while calls are observed.

    Raises:
        DeviceError: an unknown device name.
        CaptureError: the model raised (the original error is the cause).
        RegistrationError: a function slot's target cannot be found.
    """
    device_type = torch_type(parse_device(device))
    sites = sites_of((*occurrences, *hosts.occurrences))
    log = _Log(blocks=BlockLog(model) if blocks else None)
    alone_us: list[tuple[str, tuple[float, ...]]] = []
    with autocast_below(sites, device_type) as below:
        steps, left_out = taken(steps, lambda step: run(step, model))
    for step in steps:
        alone_us.append((step.label, repeated_us(functools.partial(run_timed, step, model, device_type))))
        recorder = _Recorder(log=log, step=step.label, below=below)
        with eagerly(), hosts.standing(), _blocks_recorded(log, step.label), replaced(sites, recorder.wrap):
            run(step, model)
        timer = Timer(device_type=device_type, keys=recorder.keys)
        passes: list[Pass] = []

        def one_pass(step: Step = step, timer: Timer = timer, passes: list[Pass] = passes) -> float:
            passes.append(timer.one_pass(step, model))
            return passes[-1].whole_us

        with eagerly(), hosts.standing(), replaced(sites, timer.wrap):
            repeated_us(one_pass)
        log.passes[step.label] = passes
        log.trains |= step.trains
    _keep_blocks(log, steps, model)
    return Capture(
        observations=_observations(log, sites, [step.label for step in steps]),
        uncalled=tuple(_unseen(log, site) for site in sites if site not in log.called),
        step_us=tuple((label, median(times_us)) for label, times_us in alone_us),
        alone_us=tuple(alone_us),
        steps=steps,
        left_out=left_out,
    )


@dataclass(slots=True, kw_only=True)
class _Entry:
    """What is known of one slot and workload so far."""

    key: Key
    slot: Slot
    workload: Workload
    module: nn.Module | None
    call: Call
    sites: set[Site] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    inside: dict[str, None] = field(default_factory=dict)
    within: Calls = field(default_factory=Calls)


@dataclass(slots=True)
class _Log:
    blocks: BlockLog | None = None
    entries: dict[Key, _Entry] = field(default_factory=dict)
    called: set[Site] = field(default_factory=set)
    undescribed: dict[Site, str] = field(default_factory=dict)
    passes: dict[str, list[Pass]] = field(default_factory=dict)
    trains: bool = False


@dataclass(slots=True, kw_only=True)
class _Recorder:
    """Writes down the calls of one run; ``keys`` is what each place was called with, call after call."""

    log: _Log
    step: str
    below: dict[Site, str] = field(default_factory=dict)
    keys: defaultdict[Site, list[Key]] = field(default_factory=lambda: defaultdict(list))
    running: list[Site] = field(default_factory=list)
    is_writing: bool = False

    def wrap(self, site: Site, original: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            if self.is_writing:  # a slot that writing down itself makes use of
                return original(*args, **kwargs)
            self.is_writing = True
            try:
                self._write(site, args, kwargs)
            except Exception as error:
                # Of a stranger's tensors (ragged ones, weights without strides) not all can be described or copied.
                self.log.undescribed[site] = in_a_line(error, 120)
                self.keys[site].clear()  # which of its calls takes how long cannot be told any more
            finally:
                self.is_writing = False
            self.running.append(site)
            try:
                return original(*args, **kwargs)
            finally:
                self.running.pop()

        return recorded

    def _write(self, site: Site, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        workload = observe(site.target, args, kwargs, site.module)
        if site in self.below:
            workload = replace(workload, context=replace(workload.context, autocast=self.below[site]))
        blocks, is_layer = self.log.blocks, site.slot.kind.takes_module
        visit = None if blocks is None else blocks.around(site)
        # A function has one dispatcher for the whole process: its calls are told apart by nothing but themselves.
        key = (site.slot, workload.key, blocks.kind_of(visit) if blocks is not None and is_layer else "")
        entry = self.log.entries.get(key)
        if entry is None:
            call = snapshot(args, kwargs)
            entry = _Entry(key=key, slot=site.slot, workload=workload, module=site.module, call=call)
            self.log.entries[key] = entry
        entry.sites.add(site)
        entry.calls[self.step] += 1
        entry.within.add(visit, site)
        # Such a slot is the whole model and replaces nothing in it.
        outside = (outer for outer in self.running if outer.slot != site.slot and outer.slot.name not in OF_THE_MODEL)
        entry.inside.update((_whereabouts(outer), None) for outer in outside)
        self.keys[site].append(key)
        self.log.called.add(site)


def _unseen(log: _Log, site: Site) -> str:
    why = log.undescribed.get(site)
    return site.title if why is None else f"{site.title} (its calls cannot be described: {why})"


def _observations(log: _Log, sites: Sequence[Site], labels: Sequence[str]) -> tuple[Observation, ...]:
    observations = []
    for entry in log.entries.values():
        if entry.slot.name in OF_THE_MODEL and continues(entry.workload):
            continue  # a cache that each call makes longer: no two calls would be the same
        if entry.slot.name == BLOCK and not repeats(entry.workload):
            continue
        paths = [site.path for site in sites if site in entry.sites and site.module is not None]
        block = None if log.blocks is None else log.blocks.block(entry.within, entry.workload.context)
        observations.append(
            Observation(
                slot=entry.slot,
                workload=entry.workload,
                instances=tuple(paths),
                seen=tuple(_seen(log, entry, label) for label in labels if entry.calls[label]),
                module=entry.module,
                call=entry.call,
                inside=tuple(entry.inside),
                block=block if isinstance(block, Block) else None,
                why_alone=block if isinstance(block, str) else "",
            )
        )
    return tuple(sorted(observations, key=lambda o: (o.slot.name, o.workload.key, o.block.path if o.block else "")))


def _seen(log: _Log, entry: _Entry, label: str) -> Seen:
    return Seen(step=label, calls=entry.calls[label], share=share(log.passes[label], entry.key, trains=log.trains))


def _whereabouts(site: Site) -> str:
    return site.slot.name if site.module is None else site.path


def _blocks_recorded(log: _Log, step: str) -> AbstractContextManager[object]:
    return nullcontext() if log.blocks is None else replaced(log.blocks.sites, log.blocks.recorder(step))


def _keep_blocks(log: _Log, steps: Sequence[Step], model: nn.Module) -> None:
    """Run each step once more for the arguments of the blocks that contests are to be held on."""
    if log.blocks is None:
        return
    wanted = {visit for entry in log.entries.values() if (visit := log.blocks.wanted(entry.within)) is not None}
    for step in steps:
        here = {visit for visit in wanted if visit[0] == step.label}
        if here:
            with eagerly(), replaced(log.blocks.sites, log.blocks.keeper(step.label, here)):
                run(step, model)
