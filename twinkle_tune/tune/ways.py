"""Ways of running the whole model against the original: which wins which step, and for which calls that is shown."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from twinkle_tune.capture.held_out import Tried
from twinkle_tune.capture.step import Step
from twinkle_tune.contest.compiling import uncapped
from twinkle_tune.contest.model import ModelStage, Way
from twinkle_tune.errors import TuneError, in_a_line
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.setup_calls import call_of
from twinkle_tune.kernel.setups import digest_of_model, way_layers
from twinkle_tune.measure.clock import Clock
from twinkle_tune.outcome import Measurement, Rejection, Trial, Untimed
from twinkle_tune.profile.setup import CompiledStep, ModelCall, Setup
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.strategy import STRATEGIES
from twinkle_tune.strategy.backend import Backend
from twinkle_tune.terms import Terms
from twinkle_tune.tune.events import Listener, StepStarted, WaysTimed
from twinkle_tune.tune.whole import held, ratio_of, release_optimizers, rounded_us

MOST_SLOWER = 1.02
"""At sizes that did not choose it a way may take so much of the original's time: noise, no loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What came of all ways in all steps.

    Attributes:
        compiled: each way in each step.
        setups: the winners of steps, and for which calls they are shown.
    """

    compiled: tuple[CompiledStep, ...] = ()
    setups: tuple[Setup, ...] = ()


def time_ways(
    model: nn.Module,
    tried: Sequence[Tried],
    clock: Clock,
    terms: Terms,
    tell: Listener,
    *,
    seconds: float,
    ends_s: float = math.inf,
) -> Ways:
    """Let each way of running the model compete with the original in each step, all in the same rounds.

    What torch.compile kept in this process is dropped before each step and after the last. A way that cannot be
    compiled, computes something else, or would run uncompiled, has no figure, but the reason.

    Args:
        model: with its originals, not compiled.
        tried: steps, and the same of other sizes.
        clock: of the device.
        terms: of the run.
        tell: told of each step that is over.
        seconds: that a step is timed, unless the fewest rounds take longer; compiling takes what it takes.
        ends_s: of the monotonic clock: no way is begun after it.
    """
    compiled: list[CompiledStep] = []
    setups: list[Setup] = []
    digest = digest_of_model(model) if tried else ""
    try:
        for each in tried:
            if time.monotonic() >= ends_s:
                break
            torch.compiler.reset()
            tell(StepStarted(label=each.step.label))
            try:
                seen = calls_of(model, each.step)
            except Exception as error:  # the original's: such a step is our own guess
                compiled += _not_taken(model, each.step, error)
                continue
            with uncapped():
                contest = _Contest(model, each.step, clock, terms, seconds, ends_s)
                found = contest.results(each.again)
                compiled += found
                tell(WaysTimed(label=each.step.label, compiled=found))
                won = winner_of(found)
                if won is not None:
                    calls = (*seen, *contest.held_out(won, each.held_out, seconds / 4))
                    setups.append(Setup(label=each.step.label, way=won, calls=calls, model=digest))
    finally:
        torch.compiler.reset()
        release_optimizers([step for each in tried for step in each.all])
    return Ways(compiled=tuple(compiled), setups=tuple(setups))


def winner_of(ways: Sequence[CompiledStep]) -> str | None:
    """The fastest of those that are clearly faster than the original; None for the original."""
    clear = [way for way in ways if not way.problem and way.high < 1]
    return min(clear, key=lambda way: way.ratio).way if clear else None


def calls_of(model: nn.Module, step: Step) -> tuple[ModelCall, ...]:
    """The model's calls in a step; of those that are alike but for the cache the first and the last."""
    seen: list[ModelCall] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(call_of(module, args, kwargs))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        step.run(model)
    finally:
        handle.remove()
    with_cache = [call for call in seen if call.cached]
    return tuple(dict.fromkeys((*(call for call in seen if not call.cached), *with_cache[:1], *with_cache[-1:])))


class _Contest:
    """The contest of all ways in one step. What was compiled for it serves the steps that are held out."""

    def __init__(self, model: nn.Module, step: Step, clock: Clock, terms: Terms, seconds: float, ends_s: float) -> None:
        self._model, self._step, self._clock, self._terms = model, step, clock, terms
        self._seconds, self._ends_s = seconds, ends_s
        self._ways: Mapping[str, Way] = {way.name: way for way in ways_of(model)}

    def results(self, again: Step | None) -> tuple[CompiledStep, ...]:
        """How each way fared; the fastest is right with other values, too."""
        found = {step.way: step for step in self._timed()}
        while again is not None and (won := winner_of(tuple(found.values()))) is not None:
            stage = self._stage(again, 0.0)
            _, other = held(stage, self._against(won), self._terms).trials
            if not isinstance(other.outcome, Rejection):
                break
            found[won] = _refused(self._step.label, other, stage.raised.get(won))
        return tuple(found.values())

    def _timed(self) -> Iterator[CompiledStep]:
        stage = self._stage(self._step, self._seconds)
        original, *others = held(stage, self._against(*self._ways), self._terms, self._ends_s).trials
        assert isinstance(original.outcome, Measurement)
        for other in others:
            yield _compiled_step(self._step.label, original.outcome, other, stage.raised.get(other.candidate))

    def held_out(self, way: str, steps: Sequence[Step], seconds: float) -> Iterator[ModelCall]:
        """The calls of the other steps in which a way is right, not slower, and compiled once at most."""
        backend = self._ways[way].backend
        for step in steps:
            try:
                calls = calls_of(self._model, step)
                stage = self._stage(step, seconds)
                original, other = held(stage, self._against(way), self._terms, self._ends_s).trials
            except Exception:  # the original's: nobody said that the model takes such inputs
                continue
            if isinstance(other.outcome, Measurement) and isinstance(original.outcome, Measurement):
                figure = ratio_of(other.outcome, original.outcome)
                is_settled = backend is not None and backend.graphs == stage.graphs[way]
                if is_settled and figure.low <= 1 and figure.ratio <= MOST_SLOWER:
                    yield from calls

    def _against(self, *names: str) -> list[Way]:
        return [Way(name=ORIGINAL, source=ORIGINAL, runner=self._model), *(self._ways[name] for name in names)]

    def _stage(self, step: Step, seconds: float) -> ModelStage:
        return ModelStage(self._model, step, self._clock, seed=self._terms.seed, seconds=seconds)


def ways_of(model: nn.Module) -> Iterator[Way]:
    """The ways of running a model that fit it."""
    for strategy in STRATEGIES:
        if not strategy.why_not(model):
            backend = Backend(gives_up=True, stands_in=True)
            plan = Plan(layers=way_layers(model, [(strategy, backend, None)]))
            yield Way(name=strategy.name, source="compile", runner=model, plan=plan, backend=backend)


def _not_taken(model: nn.Module, step: Step, error: Exception) -> Iterator[CompiledStep]:
    why = f"the model does not take the step ({in_a_line(error, 200)})"
    for strategy in STRATEGIES:
        if not strategy.why_not(model):
            yield CompiledStep(label=step.label, way=strategy.name, problem=why, cause="inconclusive")


def _compiled_step(label: str, original: Measurement, other: Trial, error: Exception | None) -> CompiledStep:
    found = other.outcome
    if isinstance(found, Rejection):
        return _refused(label, other, error)
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
    )


def _refused(label: str, trial: Trial, error: Exception | None) -> CompiledStep:
    found = trial.outcome
    assert isinstance(found, Rejection)
    # Of an error itself is told, not when it came.
    told = None if found.stage == "parity" or error is None else error
    words = found.reason if told is None else str(told) if isinstance(told, TuneError) else in_a_line(told, 200)
    return CompiledStep(label=label, way=trial.candidate, problem=words, cause=found.cause)
