"""Running the model under observation: which slots are called, with what, how often and for how long.

Each step is run once to warm up, three times for its own time, once to write down its calls, and once more to
time them: writing down (copies of arguments) would otherwise count into the time of the slots around it.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter_ns
from typing import Any

import torch
from torch import nn

from twinkle_tune.capture.block import Block, BlockLog, Calls
from twinkle_tune.capture.inputs import Call, snapshot
from twinkle_tune.capture.sites import Site, replaced, sites_of
from twinkle_tune.capture.step import Step
from twinkle_tune.capture.taken import taken
from twinkle_tune.catalog.attention import continues
from twinkle_tune.catalog.block import BLOCK, repeats
from twinkle_tune.device import parse_device, torch_type
from twinkle_tune.errors import CaptureError, TuneError
from twinkle_tune.kernel.target import Target
from twinkle_tune.profile.schema import Seen
from twinkle_tune.slot import OF_THE_MODEL, Slot, SlotKind
from twinkle_tune.workload import Workload, observe

_TIMED_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All calls of one slot that look the same.

    Attributes:
        slot: the slot.
        workload: what the calls look like.
        instances: paths of the instances that were called so, in the model's order; empty for a function.
        seen: for each step that called it: calls a step over all instances, and the share of the step's time
            that passed inside the calls' forward (0 to 1; slots inside are included, the backward is not).
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What was seen.

    Attributes:
        observations: ordered by slot name, then workload key.
        uncalled: places that no step called ("RMSNorm model.norm", or a function slot's name).
        step_us: label and microseconds of each step without observation, median of three runs.
        steps: those that the model was run in.
        left_out: label of each made-up step that the model does not take, and why.
    """

    observations: tuple[Observation, ...]
    uncalled: tuple[str, ...]
    step_us: tuple[tuple[str, float], ...]
    steps: tuple[Step, ...]
    left_out: tuple[tuple[str, str], ...] = ()


def capture(
    model: nn.Module, steps: Sequence[Step], targets: Sequence[Target], device: str, *, blocks: bool = False
) -> Capture:
    """Run each step and write down every call of the targets. Model and functions are left as they were.

    Compiled code runs eagerly while it is observed; the times of the whole steps are of the model as it is. A made-up
    step that the model does not take is left out, or run as the user's inputs say.

    Args:
        model: on ``device``.
        steps: from :func:`twinkle_tune.capture.step.make_steps`.
        targets: the slots of the model.
        device: a device name, to wait for before a clock is read.
        blocks: whether the part of the model that repeats around each call is wanted. Calls of a layer slot that lie
            in different classes of such parts, or in none, are then different observations.

    Raises:
        DeviceError: an unknown device name.
        CaptureError: the model raised (the original error is the cause).
        RegistrationError: a function slot's target cannot be found.
    """
    device_type = torch_type(parse_device(device))
    sites = sites_of(targets)
    log = _Log(blocks=BlockLog(model) if blocks else None)
    step_us: list[tuple[str, float]] = []
    steps, left_out = taken(steps, lambda step: _run(step, model))
    for step in steps:
        elapsed_us = [_run_timed(step, model, device_type) for _ in range(_TIMED_RUNS)]
        step_us.append((step.label, median(elapsed_us)))
        recorder = _Recorder(log=log, step=step.label)
        with _eagerly(), _blocks_recorded(log, step.label), replaced(sites, recorder.wrap):
            _run(step, model)
        timer = _Timer(log=log, step=step.label, device_type=device_type, keys=recorder.keys)
        with _eagerly(), replaced(sites, timer.wrap):
            log.observed_us[step.label] = _run_timed(step, model, device_type)
    _keep_blocks(log, steps, model)
    return Capture(
        observations=_observations(log, sites, [step.label for step in steps]),
        uncalled=tuple(site.title for site in sites if site not in log.called),
        step_us=tuple(step_us),
        steps=steps,
        left_out=left_out,
    )


@dataclass(slots=True, kw_only=True)
class _Entry:
    """What is known of one slot and workload so far."""

    slot: Slot
    workload: Workload
    module: nn.Module | None
    call: Call
    sites: set[Site] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    inside_us: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    inside: dict[str, None] = field(default_factory=dict)
    within: Calls = field(default_factory=Calls)


_Key = tuple[Slot, str, str]
"""Slot, key of the workload, and the class of the block around a layer's call ("" for none, or if none is wanted)."""


@dataclass(slots=True)
class _Log:
    blocks: BlockLog | None = None
    entries: dict[_Key, _Entry] = field(default_factory=dict)
    called: set[Site] = field(default_factory=set)
    observed_us: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Recorder:
    """Writes down the calls of one run; ``keys`` is what each place was called with, call after call."""

    log: _Log
    step: str
    keys: defaultdict[Site, list[_Key]] = field(default_factory=lambda: defaultdict(list))
    running: list[Site] = field(default_factory=list)
    is_writing: bool = False

    def wrap(self, site: Site, original: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            if self.is_writing:  # a slot that writing down itself makes use of
                return original(*args, **kwargs)
            self.is_writing = True
            try:
                self._write(site, args, kwargs)
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
        blocks, is_layer = self.log.blocks, site.slot.kind is SlotKind.LAYER
        visit = None if blocks is None else blocks.around(site)
        # A function has one dispatcher for the whole process: its calls are told apart by nothing but themselves.
        key = (site.slot, workload.key, blocks.kind_of(visit) if blocks is not None and is_layer else "")
        entry = self.log.entries.get(key)
        if entry is None:
            call = snapshot(args, kwargs)
            entry = _Entry(slot=site.slot, workload=workload, module=site.module, call=call)
            self.log.entries[key] = entry
        entry.sites.add(site)
        entry.calls[self.step] += 1
        entry.within.add(visit, site)
        # Such a slot is the whole model and replaces nothing in it.
        outside = (outer for outer in self.running if outer.slot != site.slot and outer.slot.name not in OF_THE_MODEL)
        entry.inside.update((_whereabouts(outer), None) for outer in outside)
        self.keys[site].append(key)
        self.log.called.add(site)


@dataclass(slots=True, kw_only=True)
class _Timer:
    """Adds up the time inside the calls of a run whose calls were written down before, in the same order."""

    log: _Log
    step: str
    device_type: str
    keys: dict[Site, list[_Key]]
    counts: Counter[Site] = field(default_factory=Counter)
    running: Counter[Slot] = field(default_factory=Counter)

    def wrap(self, site: Site, original: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            number = self.counts[site]
            self.counts[site] += 1
            known = self.keys.get(site, [])
            # A slot within itself is already on the clock; a call that was not written down has no entry.
            if self.running[site.slot] or number >= len(known):
                return original(*args, **kwargs)
            self.running[site.slot] += 1
            _synchronize(self.device_type)
            start_ns = perf_counter_ns()
            try:
                return original(*args, **kwargs)
            finally:
                _synchronize(self.device_type)
                self.log.entries[known[number]].inside_us[self.step] += (perf_counter_ns() - start_ns) / 1000
                self.running[site.slot] -= 1

        return timed


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
    whole_us = log.observed_us[label]
    share = min(max(entry.inside_us[label] / whole_us, 0.0), 1.0) if whole_us > 0 else 0.0
    return Seen(step=label, calls=entry.calls[label], share=round(share, 4))


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
            with _eagerly(), replaced(log.blocks.sites, log.blocks.keeper(step.label, here)):
                _run(step, model)


def _run(step: Step, model: nn.Module) -> None:
    try:
        step.run(model)
    except TuneError:
        raise
    except Exception as error:
        raise CaptureError(
            f"step {step.label!r}: the model raised {type(error).__name__}: {error}; "
            "check that it runs on its example inputs in this mode"
        ) from error


def _run_timed(step: Step, model: nn.Module, device_type: str) -> float:
    _synchronize(device_type)
    start_ns = perf_counter_ns()
    _run(step, model)
    _synchronize(device_type)
    return (perf_counter_ns() - start_ns) / 1000


def _synchronize(device_type: str) -> None:
    if device_type == "cuda":
        torch.cuda.synchronize()
    elif device_type != "cpu":
        torch.accelerator.synchronize()


def _eagerly() -> AbstractContextManager[object]:
    # Compiled code would neither call the stand-ins nor compile them well. Where dynamo was never imported
    # nothing is compiled, and importing it takes a second.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
