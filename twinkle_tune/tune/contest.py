"""A contest in this process: load every candidate, judge it, race those that are right."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.capture.inputs import Call, fresh, named_tensors, vary
from twinkle_tune.device import torch_type
from twinkle_tune.errors import SignatureError, TuneError
from twinkle_tune.kernel.dispatch import family_of
from twinkle_tune.kernel.dispatch_function import function_dispatcher
from twinkle_tune.kernel.functions import original_function
from twinkle_tune.measure.between import BetweenCpuClock
from twinkle_tune.measure.clock import Clock, clock_for
from twinkle_tune.measure.race import Decision, Race
from twinkle_tune.measure.run import run_race
from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.outcome import Measurement, Outcome, Rejection, Selection, Stage, Trial
from twinkle_tune.parity.check import Judge
from twinkle_tune.parity.verdict import Inconclusive, Pass, Reject
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import ORIGINAL, Candidate, Implementation
from twinkle_tune.tune.events import Listener, RoundTimed, TrialRefused, TrialStarted
from twinkle_tune.tune.task import Task, Unwatched, Watch, WatchedClock
from twinkle_tune.workload import Context

Step = Callable[[], object]

_LARGE = 2**26


class InProcess:
    """Runs contests in this process: a candidate that ends the process ends the run.

    In a worker process, a ``watch`` sees to it that somebody knows whose doing that was.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch: Watch = watch or Unwatched()

    def run(self, task: Task, listener: Listener) -> Contest:
        """Run a contest to its end; what goes wrong in a candidate is a rejection, in the original an error."""
        observation = task.observation
        with _as_observed(observation.workload.context, task.device):
            self._watch.begins(ORIGINAL, "parity")
            arena = _Arena(task)
            self._watch.ends(ORIGINAL)
            outcomes = {c.name: self._prepared(c, arena, listener) for c in task.candidates}
            steps = {name: found for name, found in outcomes.items() if isinstance(found, _Ready)}
            clock = WatchedClock(arena.clock, {name: found.step for name, found in steps.items()}, self._watch)
            decision, times_us = _race(task, steps, clock, listener)
            measured = {name: _measured(found, name, times_us, decision, clock) for name, found in steps.items()}
        trials = tuple(
            Trial(
                candidate=c.name,
                source=c.source.kind,
                digest=self._digest(c, arena),
                outcome=measured.get(c.name) or _rejection(outcomes[c.name]),
            )
            for c in task.candidates
        )
        return Contest(
            slot=observation.slot,
            instances=observation.instances,
            seen=observation.seen,
            workload=observation.workload,
            trials=trials,
            selection=_selection(decision, trials),
        )

    def _prepared(self, candidate: Candidate, arena: _Arena, listener: Listener) -> _Ready | Rejection:
        found = _prepare(candidate, arena, listener, self._watch)
        self._watch.ends(candidate.name)
        return found

    def _digest(self, candidate: Candidate, arena: _Arena) -> str:
        self._watch.begins(candidate.name, "load")  # some sources load their code once more for it
        try:
            return candidate.source.digest(arena.task.observation.slot, arena.original)
        except TuneError:
            # A candidate whose code cannot be had has no digest; its rejection says why.
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A candidate that is right, with the call that will be timed."""

    step: Step
    first_call_us: float
    verdict: Pass


class _Arena:
    """What all candidates of a contest share: the original, the inputs, the judge, the clock."""

    def __init__(self, task: Task) -> None:
        observation = task.observation
        self.task = task
        self.clock: Clock = BetweenCpuClock() if task.device == "cpu" else clock_for(task.device)
        self.module = observation.module
        self.original: Callable[..., Any] = (
            type(observation.module).forward
            if observation.module is not None
            else original_function(observation.slot.target)
        )
        self.trains = task.mode.trains and observation.workload.context.grad
        self.judge = Judge(
            self.original, parity_calls(observation.call, task.seed), module=self.module, trains=self.trains
        )
        # One set of buffers for all: with buffers of its own each candidate would be timed on another placement.
        self.call = fresh(observation.call)
        self.gradients: tuple[Tensor, ...] | None = None

    def step(self, implementation: Callable[..., Any]) -> Step:
        """One timed call: forward, or forward and backward from a fixed incoming gradient."""
        first = () if self.module is None else (self.module,)
        forward = functools.partial(implementation, *first, *self.call.args, **self.call.kwargs)
        wanted = self._wanted() if self.trains else []
        if not wanted:
            return forward

        def forward_and_backward() -> object:
            outputs = [t for t in _tensors(forward()) if t.requires_grad]
            if self.gradients is None:
                self.gradients = tuple(torch.randn_like(t) for t in outputs)
            return torch.autograd.grad(outputs, wanted, self.gradients, allow_unused=True)

        return forward_and_backward

    def as_bound(self, implementation: Implementation) -> Callable[..., Any]:
        """The call as it will stand in the model: a function's winner behind the dispatcher, which costs time too."""
        family = None
        if self.module is None:
            family = family_of(self.task.observation.workload, self.task.device)
        if family is None:
            return implementation.call
        steps = ((0, sys.maxsize, implementation.call),)
        return function_dispatcher([replace(family, steps=steps)], self.original)

    def _wanted(self) -> list[Tensor]:
        inputs = [t for t in _tensors((self.call.args, dict(self.call.kwargs))) if t.requires_grad]
        parameters = [] if self.module is None else [p for p in self.module.parameters() if p.requires_grad]
        return inputs + parameters


def parity_calls(call: Call, seed: int) -> tuple[Call, ...]:
    """The inputs that a candidate is judged on: the captured call, two others like it, outliers, small values.

    Where the call holds more than 2**26 elements (logits of a large vocabulary), only it, another and outliers:
    the judge keeps the float64 results of all of them.
    """
    if sum(tensor.numel() for _, tensor in named_tensors(call)) > _LARGE:
        return call, vary(call, seed=seed + 1), vary(call, seed=seed + 3, outliers=True)
    return (
        call,
        vary(call, seed=seed + 1),
        vary(call, seed=seed + 2),
        vary(call, seed=seed + 3, outliers=True),
        vary(call, seed=seed + 4, scale=1e-3),
    )


def _prepare(candidate: Candidate, arena: _Arena, listener: Listener, watch: Watch) -> _Ready | Rejection:
    """Load, call and judge one candidate. The original is not judged: the judge holds it against itself."""
    listener(TrialStarted(candidate=candidate.name))
    task, stage = arena.task, watch.begins(candidate.name, "load")
    try:
        implementation = candidate.source.load(task.observation.slot, arena.original)
        unfit = implementation.unfit_for(task.mode)
        if unfit:
            return _refuse(listener, candidate, "capability", unfit)
        stage = watch.begins(candidate.name, "first call")
        call = implementation.call if candidate.name == ORIGINAL else arena.as_bound(implementation)
        call = torch.compile(_renamed(call)) if task.mode.compiles else call
        step = arena.step(call)
        first_call_us = arena.clock.first_call_us(step)
        if candidate.name == ORIGINAL:
            return _Ready(step=step, first_call_us=first_call_us, verdict=Pass(figures=(), deterministic=True))
        stage = watch.begins(candidate.name, "parity")
        # Judged without the dispatcher, which would pass calls that look otherwise (judged copies) to the original.
        judged = torch.compile(_renamed(implementation.call)) if task.mode.compiles else implementation.call
        verdict = arena.judge.judge(judged)
    except SignatureError as error:
        return _refuse(listener, candidate, "signature", str(error))
    except TuneError as error:
        if candidate.name == ORIGINAL:
            raise
        return _refuse(listener, candidate, stage, str(error))
    except Exception as error:
        # Anything can come out of a stranger's code. Only the original's failures are the run's.
        if candidate.name == ORIGINAL:
            raise
        return _refuse(listener, candidate, stage, f"raised {type(error).__name__}: {_first_line(error)}")
    match verdict:
        case Reject():
            return _refuse(listener, candidate, "parity", f"point {verdict.point}, {verdict.tensor}: {verdict.reason}")
        case Inconclusive():
            return _refuse(listener, candidate, "parity", f"inconclusive: {verdict.reason}")
    return _Ready(step=step, first_call_us=first_call_us, verdict=verdict)


def _race(
    task: Task, steps: Mapping[str, _Ready], clock: Clock, listener: Listener
) -> tuple[Decision, Mapping[str, tuple[float, ...]]]:
    def tell(race: Race) -> None:
        best, ratio = race.leader
        listener(RoundTimed(number=race.rounds, alive=len(race.alive), best=best, ratio=ratio))

    calls = {name: found.step for name, found in steps.items()}
    decision, times_us = run_race(
        calls, clock, task.settings, seed=task.seed, on_round=tell, deadline_s=task.deadline_s
    )
    if not times_us.get(ORIGINAL):
        # Nobody to race against, or no time: the original's own time is wanted all the same.
        block_calls = clock.block_calls(calls[ORIGINAL])
        own = tuple(clock.burst_us(calls[ORIGINAL], block_calls) for _ in range(3))
        times_us = {**times_us, ORIGINAL: own}
    return decision, times_us


def _measured(
    ready: _Ready, name: str, times_us: Mapping[str, tuple[float, ...]], decision: Decision, clock: Clock
) -> Outcome:
    left = dict(decision.left).get(name, "")
    if name in decision.failed or not times_us.get(name):
        return Rejection(stage="timing", reason=left or decision.reason)
    return Measurement(
        times_us=tuple(round(t, 4) for t in times_us[name]),
        first_call_us=round(ready.first_call_us, 1),
        peak_bytes=clock.peak_bytes(ready.step),
        parity=tuple(replace(f, error=_rounded(f.error), limit=_rounded(f.limit)) for f in ready.verdict.figures),
        deterministic=ready.verdict.deterministic,
        left_race=left,
    )


def _selection(decision: Decision, trials: Sequence[Trial]) -> Selection:
    times = {t.candidate: t.outcome.times_us for t in trials if isinstance(t.outcome, Measurement)}
    if decision.winner == ORIGINAL:
        refused = [t for t in trials if isinstance(t.outcome, Rejection)]
        everyone = len(refused) == len(trials) - 1 and refused
        reason = "every other candidate was refused" if everyone else decision.reason
        return Selection(winner=ORIGINAL, rounds=decision.rounds, reason=reason)
    figure = paired_ratio(times[decision.winner], times[ORIGINAL])
    return Selection(
        winner=decision.winner,
        ratio=round(figure.ratio, 4),
        low=round(figure.low, 4),
        high=round(figure.high, 4),
        rounds=figure.rounds,
        reason=decision.reason,
    )


def _refuse(listener: Listener, candidate: Candidate, stage: Stage, reason: str) -> Rejection:
    listener(TrialRefused(candidate=candidate.name, stage=stage, reason=reason))
    return Rejection(stage=stage, reason=reason)


def _rejection(found: _Ready | Rejection) -> Rejection:
    assert isinstance(found, Rejection)  # whoever was ready has been measured
    return found


def _rounded(figure: float) -> float:
    """Four digits that count: a profile is read by people."""
    return float(f"{figure:.4g}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _renamed(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its own around a call, so that torch.compile keeps the contestants' caches apart."""

    def contestant(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    contestant.__code__ = contestant.__code__.replace()
    return contestant


def _tensors(value: object) -> Iterator[Tensor]:
    match value:
        case Tensor():
            yield value
        case dict():
            for item in value.values():
                yield from _tensors(item)
        case list() | tuple():
            for item in value:
                yield from _tensors(item)


@contextmanager
def _as_observed(context: Context, device: str) -> Iterator[None]:
    """The state of the process in which the call was seen: gradients and autocast."""
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(context.grad))
        if context.autocast:
            dtype = getattr(torch, context.autocast)
            stack.enter_context(torch.autocast(torch_type(device), dtype=dtype))
        yield
