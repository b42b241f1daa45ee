"""The whole model with the winners against the whole model without: paired, interleaved, in one process."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from twinkle_tune.capture.optimizer import OptimizerFactory, OptimizerStep
from twinkle_tune.capture.point import unwrapped
from twinkle_tune.capture.step import Step
from twinkle_tune.contest.compiling import uncapped
from twinkle_tune.contest.contest import contest
from twinkle_tune.contest.model import ModelStage, Way
from twinkle_tune.contest.watch import Unwatched
from twinkle_tune.errors import TuneError
from twinkle_tune.kernel.kernelize import bind_plan, restore_model
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.measure.clock import Clock
from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.outcome import Measurement
from twinkle_tune.peers import each_of
from twinkle_tune.profile.schema import Found, Profile, StepResult
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.strategy.backend import Backend, compiled
from twinkle_tune.terms import Terms
from twinkle_tune.tune.allowance import free_bytes
from twinkle_tune.tune.events import Listener, StepFinished, StepStarted

_WINNERS = "winners"


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

    A step that calls no slot with a winner is not timed, where the whole model does not run in another way.

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
    ways = [
        Way(name=ORIGINAL, source=ORIGINAL, runner=runner),
        # It agreed with the original before it is timed (tune/settle.py).
        Way(name=_WINNERS, source=_WINNERS, runner=runner, plan=plan, is_right=True),
    ]
    results = []
    with _restored(model, steps), uncapped(compiles=profile.mode.compiles):
        for step in steps:
            if not profile.setups and not any(
                seen.step == step.label for contest in profile.winners for seen in contest.seen
            ):
                results.append(with_optimizer(StepResult(label=step.label), step))
                continue
            listener(StepStarted(label=step.label))
            stage = ModelStage(model, step, clock, seed=seed, seconds=seconds)
            result = _time_step(stage, step, ways, replace(profile.terms, seed=seed))
            results.append(result)
            listener(StepFinished(result=result))
    return tuple(results)


class _Compiled(nn.Module):
    """A model compiled as a whole, with what is bound to it; apart from what the user compiled of it."""

    def __init__(self, model: nn.Module, dynamic: bool | None) -> None:
        super().__init__()
        self.model = unwrapped(model)
        self._run = compiled(self.model, Backend(gives_up=False), dynamic)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)


def runner_of(model: nn.Module, terms: Terms) -> nn.Module:
    """The model as it runs: itself, or compiled when it is called."""
    return _Compiled(model, terms.dynamic) if terms.mode.compiles else model


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
    each = each_of("peaks", peaks)
    return {label: max(known) if (known := _known(each, label)) else None for label in peaks}


def _known(peaks: Sequence[Mapping[str, int | None]], label: str) -> list[int]:
    """A step's peak in each process; nothing where one does not know it."""
    found = [each[label] for each in peaks]
    return [] if None in found else [peak for peak in found if peak is not None]


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


def _time_step(stage: ModelStage, step: Step, ways: Sequence[Way], terms: Terms) -> StepResult:
    had = step.optimizer is not None and not step.optimizer.problem
    found = held(stage, ways, terms)
    if any(each_of("without an optimizer", had and step.optimizer is not None and bool(step.optimizer.problem))):
        # It was lost on the way: some rounds were with it, some without.
        found = held(stage, ways, terms)
    original, tuned = (trial.outcome for trial in found.trials)
    if not isinstance(tuned, Measurement):
        # In another process of those that tune together, maybe.
        raise stage.raised.get(_WINNERS) or TuneError(tuned.reason)
    assert isinstance(original, Measurement)
    figure = ratio_of(tuned, original)
    result = StepResult(
        label=step.label,
        original_us=rounded_us(original),
        tuned_us=rounded_us(tuned),
        ratio=figure.ratio,
        low=figure.low,
        high=figure.high,
        original_peak_bytes=original.peak_bytes,
        tuned_peak_bytes=tuned.peak_bytes,
    )
    return with_optimizer(result, step)


def held(stage: ModelStage, ways: Sequence[Way], terms: Terms, ends_s: float = math.inf) -> Found:
    """The contest of some ways of running a step, which nobody watches."""
    return contest(stage, ways, terms, watch=Unwatched(), tell=lambda event: None, ends_s=ends_s)


def rounded_us(outcome: Measurement) -> tuple[float, ...]:
    """The times of a step as a profile holds them."""
    return tuple(round(t, 2) for t in outcome.times_us)


def ratio_of(mine: Measurement, original: Measurement) -> Ratio:
    """The ratio of two ways of running a step as a profile holds it."""
    return paired_ratio(mine.times_us, original.times_us).rounded()
