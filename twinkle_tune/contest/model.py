"""The stage that is a step of the whole model: what competes are ways of running it, the original's among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial

from torch import nn

from twinkle_tune.capture.step import Step
from twinkle_tune.contest.agree import Agreement
from twinkle_tune.contest.compiling import stays_compiled, versions
from twinkle_tune.contest.stage import Begins, Entrant, Stage
from twinkle_tune.kernel.kernelize import bind_plan, restore_model
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.measure.around import ClockAround
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.measure.full import FullRace
from twinkle_tune.outcome import Outcome, Trial
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.strategy.backend import Backend
from twinkle_tune.terms import Terms

_ROUNDS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way of running the model.

    Attributes:
        name: "original", or what a record calls it.
        source: what kind of way it is.
        runner: the model as it runs: itself, or compiled.
        plan: what is bound to it meanwhile.
        backend: compiles it where it must not run uncompiled, or be compiled at each call.
        is_right: whether it is known to compute what the original does.
    """

    name: str
    source: str
    runner: nn.Module
    plan: Plan | None = None
    backend: Backend | None = None
    is_right: bool = False


def compiles_at(model: nn.Module, way: Way, steps: Iterable[Step]) -> bool:
    """Whether a way of running a model is compiled anew in any of these steps, or fails there."""
    graphs = None if way.backend is None else way.backend.graphs
    try:
        bind_plan(model, way.plan or Plan())
        for step in steps:
            step.run(way.runner)
    except Exception:  # the original's may be: nobody said that the model takes such inputs
        return True
    finally:
        restore_model(model)
    return way.backend is not None and way.backend.graphs != graphs


class ModelStage(Stage[Way]):
    """A step of the whole model. Each way stands only while it is called.

    Attributes:
        raised: the last error of each way.
        graphs: how many graphs each way was compiled to when its race began.
    """

    least_race_s = 3.0
    no_time = "not tried: the time budget leaves less than compiling it may take"

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        clock: Clock,
        *,
        seed: int,
        seconds: float,
        compile_s: Callable[[str], float] = lambda name: 0.0,
    ) -> None:
        """For one step.

        ``seed`` is of what the model draws, ``seconds`` that the ways are timed, unless the fewest rounds take longer,
        ``compile_s`` without which a way that is to be compiled is not begun: nobody interrupts a compiler.
        """
        self._compile_s = compile_s
        self.race_s = seconds
        self.clock = self._placing = _Placing(model, clock)
        self.raised = self._placing.raised
        self.graphs: dict[str, int] = {}
        self._model, self._step, self._seed = model, step, seed

    def enter(self, candidate: Way, begins: Begins) -> Entrant:
        """As :meth:`Stage.enter`. It is called twice: a compiler may compile anew at the second call."""
        begins("first call")
        step = partial(self._step.run, candidate.runner)
        self._placing.ways[step] = candidate
        before = {} if candidate.backend is None else versions()
        first_call_us = self.clock.first_call_us(step) + self.clock.first_call_us(step)
        if candidate.backend is not None:
            stays_compiled(candidate.backend, before, partial(self.clock.first_call_us, step))
            self.graphs[candidate.name] = candidate.backend.graphs
        if candidate.name == ORIGINAL or candidate.is_right:
            return Entrant(step=step, first_call_us=first_call_us)
        plan, compiles = candidate.plan or Plan(), candidate.backend is not None
        judge = partial(self._agreement.verdict, candidate.runner, plan, compiled=compiles)
        return Entrant(step=step, first_call_us=first_call_us, judge=judge, again=judge)

    @cached_property
    def _agreement(self) -> Agreement:
        # One for all ways: what the original computes, and how far a rounding of each layer goes.
        return Agreement(self._model, self._step, Plan(), self._seed, everywhere=True)

    def race(self, peaks: Mapping[str, int | None], terms: Terms) -> FullRace:
        """As :meth:`Stage.race`: the ratio is wanted whoever wins."""
        settings = replace(terms.settings, max_rounds=_ROUNDS, warmup_rounds=0)
        return FullRace([name for name in peaks if name != ORIGINAL], settings, seed=terms.seed)

    def needs_s(self, candidate: Way) -> float:
        """As :meth:`Stage.needs_s`."""
        is_there = candidate.backend is None or candidate.backend.graphs > 0
        return 0.0 if is_there else self._compile_s(candidate.name)

    def trial(self, candidate: Way, outcome: Outcome) -> Trial:
        """As :meth:`Stage.trial`."""
        return Trial(candidate=candidate.name, source=candidate.source, digest="", outcome=outcome)


class _Placing(ClockAround):
    """Binds a way's plan around its calls, outside of what is timed."""

    def __init__(self, model: nn.Module, clock: Clock) -> None:
        super().__init__(clock)
        self._model = model
        self.ways: dict[Call, Way] = {}
        self.raised: dict[str, Exception] = {}

    @contextmanager
    def _around(self, call: Call) -> Iterator[None]:
        way = self.ways[call]
        try:
            if way.plan is not None:
                bind_plan(self._model, way.plan)
            else:
                self._bind_in_vain()
            yield
        except Exception as error:
            inner = getattr(error, "inner_exception", None)  # torch wraps what a backend raises
            self.raised[way.name] = inner if isinstance(inner, Exception) else error
            raise self.raised[way.name] from None
        finally:
            if way.plan is not None:
                restore_model(self._model)

    def peak_bytes(self, call: Call) -> int | None:
        """As :meth:`Clock.peak_bytes`, with what is reserved for a way's code between calls, where that is known."""
        peak, backend = super().peak_bytes(call), self.ways[call].backend
        if backend is not None and backend.records:
            return None
        return peak if peak is None or backend is None else peak + backend.held_bytes

    def _bind_in_vain(self) -> None:
        """Do what stands before a call of another way, which leaves the processor's caches cold: 1.5% of a small step.

        In a user's process nothing is bound between two calls: it must not tell the original from the others.
        """
        plan = next((way.plan for way in self.ways.values() if way.plan is not None), None)
        if plan is not None:
            bind_plan(self._model, plan)
            restore_model(self._model)
