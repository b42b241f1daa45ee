"""torch.compile of the whole model beside the original: a figure to choose a mode by, which selects no kernel."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from twinkle_tune.capture.step import Step
from twinkle_tune.errors import in_a_line
from twinkle_tune.measure.clock import Clock
from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.profile.schema import CompiledStep
from twinkle_tune.tune.whole import paired_times, release_optimizers


def time_compiled(
    model: nn.Module, steps: Sequence[Step], clock: Clock, *, seed: int, seconds: float
) -> tuple[CompiledStep, ...]:
    """Time each step of the compiled model against the original, in paired rounds.

    What torch.compile kept in this process is dropped before each step and after the last. A step that cannot be
    compiled is one with its reason.

    Args:
        model: with its originals, not compiled.
        steps: the ways of running it.
        clock: of the device.
        seed: of the order within the rounds.
        seconds: that a step is timed, unless the fewest rounds take longer; compiling takes what it takes.
    """
    try:
        return tuple(_time_step(model, step, clock, seed, seconds) for step in steps)
    finally:
        torch.compiler.reset()
        release_optimizers(steps)


def _time_step(model: nn.Module, step: Step, clock: Clock, seed: int, seconds: float) -> CompiledStep:
    torch.compiler.reset()
    runners = {False: model, True: cast("nn.Module", torch.compile(model))}
    calls = {compiled: lambda runner=runner: step.run(runner) for compiled, runner in runners.items()}
    began_s = time.monotonic()
    try:
        calls[True]()
        calls[True]()
    except Exception as error:
        # The compiler may refuse a model for any reason; the original has run before.
        return CompiledStep(label=step.label, problem=in_a_line(error, 200))
    compile_s = time.monotonic() - began_s
    blocks = {compiled: clock.block_calls(call) for compiled, call in calls.items()}
    times_us = paired_times(calls.__getitem__, clock, blocks, seed=seed, seconds=seconds)
    figure = paired_ratio(times_us[True], times_us[False])
    return CompiledStep(
        label=step.label,
        original_us=tuple(round(t, 2) for t in times_us[False]),
        compiled_us=tuple(round(t, 2) for t in times_us[True]),
        ratio=round(figure.ratio, 4),
        low=round(figure.low, 4),
        high=round(figure.high, 4),
        compile_s=round(compile_s, 1),
    )
