"""Ways of compiling the whole model against the original: figures to choose a way by, which select no kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from twinkle_tune.capture.step import Step
from twinkle_tune.catalog.block import outermost_blocks
from twinkle_tune.contest.compiling import Backend, uncapped
from twinkle_tune.contest.model import ModelStage, Way
from twinkle_tune.contest.runner import Compiled, CompiledBlocks
from twinkle_tune.errors import TuneError, in_a_line
from twinkle_tune.measure.clock import Clock
from twinkle_tune.outcome import Measurement, Rejection, Trial
from twinkle_tune.profile.schema import BLOCKS, COMPILE, DYNAMIC, CompiledStep
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.terms import Terms
from twinkle_tune.tune.whole import held, ratio_of, release_optimizers, rounded_us


def time_compiled(
    model: nn.Module, steps: Sequence[Step], clock: Clock, terms: Terms, *, seconds: float
) -> tuple[CompiledStep, ...]:
    """Time each step of the model compiled in each way against the original, all in the same rounds.

    What torch.compile kept in this process is dropped before each step and after the last. A way that cannot be
    compiled, computes something else, or would run uncompiled, is one with its reason.

    Args:
        model: with its originals, not compiled.
        steps: the ways of running it.
        clock: of the device.
        terms: of the run.
        seconds: that a step is timed, unless the fewest rounds take longer; compiling takes what it takes.
    """
    results: list[CompiledStep] = []
    try:
        for step in steps:
            torch.compiler.reset()
            with uncapped():
                results += _contest_of(model, step, clock, terms, seconds)
    finally:
        torch.compiler.reset()
        release_optimizers(steps)
    return tuple(results)


def ways_of(model: nn.Module) -> Iterator[Way]:
    """The ways of compiling a model: as a whole, for dynamic shapes too, and block by block where it repeats any."""
    for name, dynamic in ((COMPILE, None), (DYNAMIC, True)):
        backend = Backend(gives_up=True)
        runner = Compiled(model, backend, dynamic)
        yield Way(name=name, source=COMPILE, runner=runner, backend=backend)
    blocks = outermost_blocks(model)
    if blocks:
        backend = Backend(gives_up=True)
        yield Way(name=BLOCKS, source=COMPILE, runner=CompiledBlocks(model, blocks, backend), backend=backend)


def _contest_of(model: nn.Module, step: Step, clock: Clock, terms: Terms, seconds: float) -> Iterator[CompiledStep]:
    stage = ModelStage(model, step, clock, seed=terms.seed, seconds=seconds)
    ways = [Way(name=ORIGINAL, source=ORIGINAL, runner=model), *ways_of(model)]
    original, *others = held(stage, ways, terms).trials
    assert isinstance(original.outcome, Measurement)
    for other in others:
        yield _compiled_step(step.label, original.outcome, other, stage.raised.get(other.candidate))


def _compiled_step(label: str, original: Measurement, other: Trial, error: Exception | None) -> CompiledStep:
    found = other.outcome
    if isinstance(found, Rejection):
        # Of an error itself is told, not when it came.
        told = None if found.stage == "parity" or error is None else error
        words = found.reason if told is None else str(told) if isinstance(told, TuneError) else in_a_line(told, 200)
        return CompiledStep(label=label, way=other.candidate, problem=words, cause=found.cause)
    assert isinstance(found, Measurement)
    figure = ratio_of(found, original)
    return CompiledStep(
        label=label,
        way=other.candidate,
        original_us=rounded_us(original),
        compiled_us=rounded_us(found),
        ratio=figure.ratio,
        low=figure.low,
        high=figure.high,
        compile_s=round(found.first_call_us / 1e6, 1),
    )
