"""What came of a way of running the whole model in a step, as a profile holds it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from twinkle_tune.cause import Cause
from twinkle_tune.errors import TuneError, in_a_line
from twinkle_tune.kernel.fixed_cache import FixedCaches
from twinkle_tune.outcome import Measurement, Rejection, Trial, Untimed
from twinkle_tune.profile.schema import StepResult
from twinkle_tune.profile.setup import KERNELS, CompiledStep
from twinkle_tune.source.digest import digest_code, digest_text
from twinkle_tune.strategy import STRATEGIES
from twinkle_tune.strategy.static_cache import STATIC, why_not_static
from twinkle_tune.tune.whole import ratio_of, rounded_us


def without_figure(model: nn.Module, label: str, why: str, cause: Cause, *, trains: bool) -> Iterator[CompiledStep]:
    """Each way that fits a model, in a step in which none was timed."""
    for strategy in STRATEGIES:
        if not strategy.why_not(model, trains=trains):
            yield CompiledStep(label=label, way=strategy.name, problem=why, cause=cause)


def digests_of_ways(model: nn.Module, *, trains: bool) -> Iterator[tuple[str, str]]:
    """Name and digest of each way that fits a model, and of a cache of a fixed size where it may have one."""
    for strategy in STRATEGIES:
        if not strategy.why_not(model, trains=trains):
            yield strategy.name, digest_text(digest_code(type(strategy)), repr(strategy))
    if not why_not_static(model):
        yield f"cache:{STATIC}", digest_code(FixedCaches)


def compiled_step(label: str, original: Measurement, other: Trial, error: Exception | None) -> CompiledStep:
    """What a way's trial came to beside the original's; ``error`` is the last one that it raised."""
    found = other.outcome
    if isinstance(found, Rejection):
        return refused(label, other, error)
    if isinstance(found, Untimed):
        return CompiledStep(label=label, way=other.candidate, problem=found.reason, cause="not timed")
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
        original_peak_bytes=original.peak_bytes,
        compiled_peak_bytes=found.peak_bytes,
    )


def by_kernels(result: StepResult) -> CompiledStep:
    """The kernels that won as a way of running a step, as they were timed in it against the original."""
    return CompiledStep(
        label=result.label,
        way=KERNELS,
        original_us=result.original_us,
        compiled_us=result.tuned_us,
        ratio=result.ratio,
        low=result.low,
        high=result.high,
        original_peak_bytes=result.original_peak_bytes,
        compiled_peak_bytes=result.tuned_peak_bytes,
    )


def refused(label: str, trial: Trial, error: Exception | None) -> CompiledStep:
    """A way that was refused, with the reason."""
    found = trial.outcome
    assert isinstance(found, Rejection)
    # Of an error itself is told, not when it came.
    told = None if found.stage == "parity" or error is None else error
    words = found.reason if told is None else str(told) if isinstance(told, TuneError) else in_a_line(told, 200)
    return CompiledStep(label=label, way=trial.candidate, problem=words, cause=found.cause)
