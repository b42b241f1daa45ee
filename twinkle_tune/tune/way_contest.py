"""The contest of ways of running the whole model in one step: which is fastest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

from torch import nn

from twinkle_tune.capture.step import Step
from twinkle_tune.catalog.attention import other_attentions
from twinkle_tune.contest.model import ModelStage, Way
from twinkle_tune.kernel.plan import Plan, with_ways
from twinkle_tune.kernel.setup_calls import call_of
from twinkle_tune.kernel.setups import WayIn, backend_of, way_layers
from twinkle_tune.measure.clock import Clock
from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.profile.setup import KERNELS, CompiledStep, ModelCall, way_name
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.strategy import STRATEGIES, Strategy
from twinkle_tune.strategy.static_cache import STATIC, why_not_static
from twinkle_tune.terms import Terms
from twinkle_tune.tune.way_figures import compiled_step, refused
from twinkle_tune.tune.whole import held

LEAST_GAIN = 0.98
"""What is put into a way must leave at most so much of the time without: it is more that may go wrong."""
_LEAST_COMPILE_S = 10.0
"""With less time left compiling is not begun, for nobody interrupts it: two layers took 24 s on two loaded cores."""
_LONGER = 10.0
"""A way that tries many forms of each kernel may take so many times as long to compile as the one before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hall:
    """What all contests of ways have in common.

    Attributes:
        model: with its originals, not compiled.
        clock: of the device.
        terms: of the run.
        seconds: that a step is timed, unless the fewest rounds take longer; compiling takes what it takes.
        ends_s: of the monotonic clock: no way is begun after it.
        last_s: likewise for what gains most: one way in a step after one that a way won, and a second look at one that
            is compiled and seemed to gain; 0 for no longer.
        calls: how often each step will be run: compiling must take less time than it saves in them. None for no limit.
        only: the names of those that may compete in a step, of its label; None where all may.
        took: seconds that ways took to compile for one form of a call, in steps that are over, by name.
    """

    model: nn.Module
    clock: Clock
    terms: Terms
    seconds: float
    ends_s: float = math.inf
    last_s: float = 0.0
    calls: int | None = None
    only: Callable[[str], Collection[str] | None] = lambda label: None
    took: dict[str, float] = field(default_factory=dict, compare=False)

    def compile_s(self, name: str, forms: int) -> float:
        """Seconds that a way may take to compile for so many forms of calls.

        As long as it did, or as the quickest did, for as many; before that a guess.
        """
        took_s = self.took.get(name) or min(self.took.values(), default=0.0)
        return took_s * forms or _LEAST_COMPILE_S

    def ends_after_one_s(self, now_s: float) -> float:
        """Until when a step may go on that begins now, after one that a way won: one way is compiled and raced."""
        return min(self.last_s, now_s + self.compile_s("", 1) + self.seconds)

    def compiled(self, way: CompiledStep, forms: int) -> None:
        """Note what a way took for so many forms of calls."""
        if way.compile_s:
            self.took[way.way] = max(way.compile_s / forms, self.took.get(way.way, 0.0))


def winner_of(ways: Sequence[CompiledStep], calls: int | None = None) -> str | None:
    """The fastest of those that are clearly faster than the original; None for the original.

    With a number of ``calls`` it is the one that takes the least time for all of them, compiling included, if that is
    less than the original's.
    """
    clear = [way for way in ways if way.is_clear]
    if calls is None:
        return min(clear, key=lambda way: way.ratio).way if clear else None
    paying = {way.way: total for way in clear if (total := _total(way, calls)) < 1}
    return min(paying, key=paying.__getitem__) if paying else None


def _total(way: CompiledStep, calls: int) -> float:
    """Time of so many steps, compiling included, over the original's."""
    return way.ratio + way.compile_s * 1e6 / (calls * median(way.original_us))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Won:
    """The way that won a step: its strategy's name, whether kernels run inside, with which attention and cache."""

    way: str
    kernels: bool = False
    attention: str = ""
    cache: str = ""

    @property
    def name(self) -> str:
        """What a record calls it."""
        return way_name(self.way, kernels=self.kernels, attention=self.attention, cache=self.cache)


class WayContest:
    """The contest of ways in one step.

    Attributes:
        found: how each way fared.
    """

    def __init__(self, hall: Hall, step: Step, again: Step | None, *, forms: int = 1) -> None:
        """For one step.

        ``again`` is the step with other values, where who wins must be right, too; ``forms`` is how many calls of the
        model's that each are compiled for are in it.
        """
        self._hall, self._step, self._again = hall, step, again
        self._forms = max(1, forms)  # none is seen where the step calls no forward of the model itself
        self._ways: dict[str, Way] = {}
        self.found: list[CompiledStep] = []

    def won(self) -> Won | None:
        """The fastest way that is clearly faster than the original, with another attention where that is faster still.

        A way that can only stand in for another has a race of its own, where that other one is not clearly faster. Text
        is generated on a cache of a fixed size as well, where that may gain: what is refused, or loses, on a cache that
        grows may win so.
        """
        model, trains = self._hall.model, self._hall.terms.mode.trains
        wons = (*wons_of(model, trains=trains), *(wons_on_static(model) if self._step.generates else ()))
        known = {won.name: won for won in wons if self._may(won.name)}
        if not known:
            return None
        self._ways = {name: way_of(model, won) for name, won in known.items()}
        fits = [each for each in STRATEGIES if each.name in known]
        first = [each.name for each in fits if not each.instead_of and not each.after]
        self._timed([*first, *(name for name, won in known.items() if won.cache)])
        clear = {step.way: step for step in self.found if step.is_clear}
        if left := [each.name for each in fits if each.instead_of and each.instead_of not in clear]:
            self._timed(left)
        for each in fits:
            if each.after in clear and self._has_time_after(clear[each.after]):
                self._timed([each.name])
        self._look_again()
        while (won := winner_of(self.found, self._hall.calls)) is not None:
            if self._is_right_again(won):
                return self._with_attention(known[won])
        return None

    def with_kernels(self, without: Won, kernels: Plan, compile_s: float) -> Won | None:
        """Hold a way that won against itself with kernels inside, which must be clearly faster, and the kernels alone.

        Args:
            without: the way, with the originals inside.
            kernels: the plan of those that won their contests.
            compile_s: what the way took to compile at first: now its code is there.

        Returns:
            Who is fastest; None for the kernels alone. A way that has no figure here, for want of memory or time, stays
            what it was; one that is wrong does not.
        """
        more = replace(without, kernels=True)
        alone = Way(name=KERNELS, source=KERNELS, runner=self._hall.model, plan=kernels)
        ways = (alone, *(way_of(self._hall.model, won, kernels) for won in (without, more)))
        self._ways = {way.name: way for way in ways}
        times_us = self._timed(list(self._ways))
        self.found = [
            replace(step, compile_s=compile_s) if step.way == without.name else step for step in self.found
        ]  # fmt: skip
        if without.name not in times_us:
            wrong = any(step.way == without.name and step.cause == "wrong" for step in self.found)
            return None if wrong else without
        best = more if self._pays(more, without, times_us) else without
        last = [step for step in self.found if step.way in (KERNELS, best.name)]
        return None if winner_of(last, self._hall.calls) == KERNELS else best

    def _has_time_after(self, way: CompiledStep) -> bool:
        """Whether there is time to compile what takes longer than a way did."""
        return time.monotonic() + _LONGER * way.compile_s < self._hall.ends_s

    def _look_again(self) -> None:
        """Time the way that seemed to gain most once more, with the original alone, where noise left it open.

        For as long as compiling took, or as a step is timed where its part of the time is over: long steps have few
        rounds in the time of a contest, and noise hides much. What was seen then alone counts. A way that seemed no
        faster than one that clearly gains is left as it is.
        """
        timed = [step for step in self.found if not step.problem]
        most = LEAST_GAIN * min((step.ratio for step in timed if step.is_clear), default=1.0)
        seemed = [step for step in timed if step.is_open(most)]
        now_s, last_s = time.monotonic(), max(self._hall.ends_s, self._hall.last_s)
        if not seemed or now_s >= last_s:
            return
        best = min(seemed, key=lambda step: step.ratio)
        before, self.found = [step for step in self.found if step is not best], []
        compile_s = sum(step.compile_s for step in timed) if now_s < self._hall.ends_s else 0.0
        self._timed([best.way], seconds=max(self._hall.seconds, compile_s), ends_s=last_s)
        self.found = [*before, *(replace(step, compile_s=best.compile_s) for step in self.found)]

    def _with_attention(self, won: Won) -> Won:
        """The way with another attention of the model's own, where that is clearly faster than without."""
        for value in other_attentions(self._hall.model) if _strategy(won.way).traces_all else ():
            more = replace(won, attention=value)
            if time.monotonic() < self._hall.ends_s and self._may(more.name):
                self._ways[more.name] = way_of(self._hall.model, more)
                won = more if self._pays(more, won, self._timed([more.name], beside=won.name)) else won
        return won

    def _may(self, name: str) -> bool:
        """Whether a way may compete in this step."""
        only = self._hall.only(self._step.label)
        return only is None or name in only

    def _pays(self, more: Won, without: Won, times_us: Mapping[str, tuple[float, ...]]) -> bool:
        """Whether ``more`` is right and clearly faster than ``without``, by 2%, in the same rounds."""
        if not times_us.keys() >= {more.name, without.name}:
            return False
        gain = paired_ratio(times_us[more.name], times_us[without.name])
        if gain.high >= 1 or gain.ratio > LEAST_GAIN:
            return False
        pair = [step for step in self.found if step.way in (without.name, more.name)]
        # Their ratios to the original may be of two races: only a price that is to be paid decides by them.
        is_worth_its_price = self._hall.calls is None or winner_of(pair, self._hall.calls) == more.name
        return is_worth_its_price and self._is_right_again(more.name)

    def _timed(
        self, names: Sequence[str], *, beside: str = "", seconds: float | None = None, ends_s: float | None = None
    ) -> dict[str, tuple[float, ...]]:
        """Time ways, and note how they fared; microseconds of those that have any.

        ``beside`` is one that was noted before; ``seconds`` and ``ends_s`` are as of the hall where they are None.
        """
        stage = self._stage(self._step, self._hall.seconds if seconds is None else seconds)
        both = [beside, *names] if beside else names
        original, *others = held(stage, self._against(*both), self._hall.terms, ends_s or self._hall.ends_s).trials
        assert isinstance(original.outcome, Measurement)
        for other in others:
            if other.candidate != beside:
                error = stage.raised.get(other.candidate)
                self.found.append(compiled_step(self._step.label, original.outcome, other, error))
                self._hall.compiled(self.found[-1], self._forms)
        return {t.candidate: t.outcome.times_us for t in others if isinstance(t.outcome, Measurement)}

    def _is_right_again(self, way: str) -> bool:
        """Whether a way is right with other values; if not, it is refused."""
        if self._again is None:
            return True
        stage = self._stage(self._again, 0.0)
        _, other = held(stage, self._against(way), self._hall.terms).trials
        if not isinstance(other.outcome, Rejection):
            return True
        told = refused(self._step.label, other, stage.raised.get(way))
        self.found = [told if step.way == way else step for step in self.found]
        return False

    def _against(self, *names: str) -> list[Way]:
        return [Way(name=ORIGINAL, source=ORIGINAL, runner=self._hall.model), *(self._ways[name] for name in names)]

    def _stage(self, step: Step, seconds: float) -> ModelStage:
        hall = self._hall
        compile_s = partial(hall.compile_s, forms=self._forms)
        return ModelStage(hall.model, step, hall.clock, seed=hall.terms.seed, seconds=seconds, compile_s=compile_s)


def wons_of(model: nn.Module, *, trains: bool) -> Iterator[Won]:
    """The ways of running a model that fit it, in training or in inference, with its originals inside."""
    for strategy in STRATEGIES:
        if not strategy.why_not(model, trains=trains):
            yield Won(way=strategy.name)


def wons_on_static(model: nn.Module) -> Iterator[Won]:
    """Those that are tried first, on a cache of a fixed size, where the model may have one."""
    if not why_not_static(model):
        for won in wons_of(model, trains=False):
            if not (_strategy(won.way).instead_of or _strategy(won.way).after):
                yield replace(won, cache=STATIC)


def way_of(model: nn.Module, won: Won, kernels: Plan | None = None) -> Way:
    """A way as a contestant; ``kernels`` are those inside of it, where there are any."""
    inside, backend = (kernels or Plan()) if won.kernels else Plan(), backend_of(gives_up=True, attention=won.attention)
    way = WayIn(
        strategy=_strategy(won.way),
        backend=backend,
        kernels=won.kernels,
        cache=won.cache,
        layers=bool(inside.layers),
        functions=bool(inside.functions),
        attention=won.attention,
    )
    plan = with_ways(inside, way_layers(model, [way]))
    return Way(name=way.name, source="compile", runner=model, plan=plan, backend=backend)


def _strategy(name: str) -> Strategy:
    return next(each for each in STRATEGIES if each.name == name)
