"""The whole model with the winners against the whole model without: paired, interleaved, in one process."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from twinkle_tune.capture.optimizer import OptimizerFactory, OptimizerStep
from twinkle_tune.capture.point import unwrapped
from twinkle_tune.capture.step import Step
from twinkle_tune.contest.compiling import Backend, compiled, uncapped
from twinkle_tune.kernel.kernelize import bind_plan, restore_model
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.profile.schema import Profile, StepResult
from twinkle_tune.terms import Terms
from twinkle_tune.tune.allowance import free_bytes
from twinkle_tune.tune.events import Listener, StepFinished, StepStarted

_ROUNDS = 400
_FEWEST_ROUNDS = 6
"""Below this no interval reaches 95%."""


def time_steps(
    model: nn.Module,
    steps: Sequence[Step],
    profile: Profile,
    plan: Plan,
    clock: Clock,
    listener: Listener,
    *,
    seed: int,
    seconds: float,
    runner: nn.Module | None = None,
) -> tuple[StepResult, ...]:
    """Time each step with a plan bound and without. The model is left restored.

    A step that calls no slot with a winner is not timed.

    Args:
        model: with its originals; in the compile modes it is compiled for this.
        steps: the ways of running it.
        profile: whose winners the plan binds.
        plan: planned once by the caller: each plan loads its kernels anew, and a compiled one is compiled again.
        clock: of the device.
        listener: told of each step.
        seed: of the order within the rounds.
        seconds: that a step is given, unless the fewest rounds take longer.
        runner: the model as it runs, from :func:`runner_of`; made for this call where there is none.
    """
    runner = runner_of(model, profile.terms) if runner is None else runner
    results = []
    with _restored(model, steps), uncapped(compiles=profile.mode.compiles):
        for step in steps:
            if not any(seen.step == step.label for contest in profile.winners for seen in contest.seen):
                results.append(with_optimizer(StepResult(label=step.label), step))
                continue
            listener(StepStarted(label=step.label))
            result = _time_step(model, runner, step, plan, clock, seed, seconds)
            results.append(result)
            listener(StepFinished(result=result))
    return tuple(results)


def runner_of(model: nn.Module, terms: Terms) -> nn.Module:
    """The model as it runs: itself, or compiled when it is called."""
    return _Compiled(model, terms.dynamic) if terms.mode.compiles else model


class _Compiled(nn.Module):
    """A model under torch.compile, apart from what the user may have compiled of it."""

    def __init__(self, model: nn.Module, dynamic: bool | None) -> None:
        super().__init__()
        self.model = unwrapped(model)
        self._run = compiled(self.model, Backend(gives_up=False), dynamic)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)


@contextmanager
def _restored(model: nn.Module, steps: Sequence[Step]) -> Iterator[None]:
    try:
        yield
    finally:
        restore_model(model)
        release_optimizers(steps)


def peaks_of(
    model: nn.Module,
    steps: Sequence[Step],
    profile: Profile,
    plan: Plan,
    clock: Clock,
    runner: nn.Module | None = None,
) -> dict[str, int | None]:
    """Peak memory of each step with a plan bound, in bytes, by label. The model is left restored.

    ``runner`` is as of :func:`time_steps`.
    """
    runner = runner_of(model, profile.terms) if runner is None else runner
    peaks = {}
    with _restored(model, steps), uncapped(compiles=profile.mode.compiles):
        bind_plan(model, plan)
        for step in steps:
            step.run(runner)
            peaks[step.label] = clock.peak_bytes(functools.partial(step.run, runner))
    return peaks


def optimizer_of(wanted: OptimizerFactory | bool, terms: Terms) -> OptimizerStep | None:
    """The optimizer of a run's training steps: True for AdamW; None for none."""
    if wanted is False or not terms.mode.trains:
        return None
    # Where too much is asked of a CPU's memory nothing raises: the system ends a process.
    room_bytes = free_bytes() if terms.device == "cpu" else None
    return OptimizerStep(room_bytes=room_bytes) if wanted is True else OptimizerStep(wanted, room_bytes=room_bytes)


def with_optimizer(result: StepResult, step: Step) -> StepResult:
    """The result, with the optimizer that was part of the step, or why there was none."""
    if step.optimizer is None:
        return result
    return replace(result, optimizer=step.optimizer.name, note=step.optimizer.problem)


def release_optimizers(steps: Sequence[Step]) -> None:
    """Let go of what the steps' optimizers hold: contests need the memory."""
    for step in steps:
        if step.optimizer is not None:
            step.optimizer.release()


def _time_step(
    model: nn.Module, runner: nn.Module, step: Step, plan: Plan, clock: Clock, seed: int, seconds: float
) -> StepResult:
    """``runner`` is the model as it will run: itself, or compiled."""
    had = step.optimizer is not None and not step.optimizer.problem
    result = _paired(model, runner, step, plan, clock, seed, seconds)
    if had and step.optimizer is not None and step.optimizer.problem:
        # It was lost on the way: some rounds were with it, some without.
        result = _paired(model, runner, step, plan, clock, seed, seconds)
    return with_optimizer(result, step)


def paired_times(
    call_of: Callable[[bool], Call], clock: Clock, block_calls: Mapping[bool, int], *, seed: int, seconds: float
) -> dict[bool, list[float]]:
    """Microseconds of two sides, the original (False) and the other (True), one figure a round, paired by position.

    Args:
        call_of: puts a side in place and gives its call.
        clock: of the device.
        block_calls: of each side, how many calls a timed block has.
        seed: of the order within the rounds.
        seconds: that the rounds may take, unless the fewest take longer.
    """
    times_us: dict[bool, list[float]] = {False: [], True: []}
    chance, began_s = random.Random(seed), time.monotonic()
    for done in range(_ROUNDS):
        if done >= _FEWEST_ROUNDS and time.monotonic() - began_s > seconds:
            break
        for side in chance.sample((False, True), 2):
            times_us[side].append(clock.burst_us(call_of(side), block_calls[side]))
    return times_us


def _paired(
    model: nn.Module, runner: nn.Module, step: Step, plan: Plan, clock: Clock, seed: int, seconds: float
) -> StepResult:
    def bind(tuned: bool) -> None:
        if tuned:
            bind_plan(model, plan)
        else:
            restore_model(model)

    def call() -> object:
        return step.run(runner)

    def bound(tuned: bool) -> Call:
        bind(tuned)
        return call

    block_calls: dict[bool, int] = {}
    peak_bytes: dict[bool, int | None] = {}
    for tuned in (False, True):
        bind(tuned)
        call()
        block_calls[tuned] = clock.block_calls(call)
        peak_bytes[tuned] = clock.peak_bytes(call)
    times_us = paired_times(bound, clock, block_calls, seed=seed, seconds=seconds)
    figure = paired_ratio(times_us[True], times_us[False])
    return StepResult(
        label=step.label,
        original_us=tuple(round(t, 2) for t in times_us[False]),
        tuned_us=tuple(round(t, 2) for t in times_us[True]),
        ratio=round(figure.ratio, 4),
        low=round(figure.low, 4),
        high=round(figure.high, 4),
        original_peak_bytes=peak_bytes[False],
        tuned_peak_bytes=peak_bytes[True],
    )
