"""How much of a step's time passes inside the calls of its slots: several passes over a model that is warm."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import torch
from torch import nn

from twinkle_tune.capture.sites import Site
from twinkle_tune.capture.step import Step
from twinkle_tune.errors import CaptureError, TuneError
from twinkle_tune.peers import mean_of
from twinkle_tune.slot import Slot

Key = tuple[Slot, str, str]
"""Slot, key of the workload, and the class of the block around a layer's call ("" for none, or if none is wanted)."""

_FEWEST, _MOST = 3, 9
_LONG_S = 1.0
"""A step is timed so long, unless the fewest runs take longer: one run of a short step says little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One run of a step under the clock, in microseconds.

    Attributes:
        whole_us: of the step.
        inside_us: inside the calls of each slot and workload: their forward.
        forward_us: of the model's forward.
        optimizer_us: of the optimizer's step, as the host sees it; 0 where there is none.
    """

    whole_us: float
    inside_us: Mapping[Key, float]
    forward_us: float
    optimizer_us: float

    def share(self, key: Key, *, trains: bool) -> float:
        """The share of the step, 0 to 1.

        Of a training step the backward takes its part with the forward: until it is measured with it, a call is taken
        to have the share of forward and backward that it has of the forward alone.
        """
        inside_us = self.inside_us.get(key, 0.0)
        if not trains:
            return _between(inside_us / self.whole_us)
        there_and_back = (self.whole_us - self.optimizer_us) / self.whole_us
        return _between(inside_us / self.forward_us * there_and_back) if self.forward_us > 0 else 0.0


def share(passes: Sequence[Pass], key: Key, *, trains: bool) -> float:
    """The share in the faster half of the passes, taken together; 0 without one.

    Together, so that a slot around another one has at least its share; the slower half holds what else the machine did.
    """
    fast = sorted(passes, key=lambda each: each.whole_us)[: (len(passes) + 1) // 2]
    if not fast:
        return 0.0
    together = Pass(
        whole_us=sum(each.whole_us for each in fast),
        inside_us={key: sum(each.inside_us.get(key, 0.0) for each in fast)},
        forward_us=sum(each.forward_us for each in fast),
        optimizer_us=sum(each.optimizer_us for each in fast),
    )
    return round(together.share(key, trains=trains), 4)


def repeated_us(run: Callable[[], float]) -> tuple[float, ...]:
    """Microseconds of a few runs: three at least, up to nine as long as they are short."""
    times_us: list[float] = []
    while len(times_us) < _FEWEST or (len(times_us) < _MOST and sum(times_us) < _LONG_S * 1e6):
        times_us.append(mean_of("a run of a step", run()))
    return tuple(times_us)


@dataclass(slots=True, kw_only=True)
class Timer:
    """Adds up the time inside the calls of runs whose calls were written down before, in the same order."""

    device_type: str
    keys: Mapping[Site, Sequence[Key]]
    counts: Counter[Site] = field(default_factory=Counter)
    running: Counter[Slot] = field(default_factory=Counter)
    inside_us: defaultdict[Key, float] = field(default_factory=lambda: defaultdict(float))

    def one_pass(self, step: Step, model: nn.Module) -> Pass:
        """Run the step once, with :meth:`wrap` around the calls.

        Raises:
            CaptureError: as :func:`run_timed`.
        """
        self.counts.clear()
        self.inside_us.clear()
        with _forward_timed(model, self.device_type) as forward_us:
            whole_us = run_timed(step, model, self.device_type)
        return Pass(
            whole_us=whole_us,
            inside_us=dict(self.inside_us),
            forward_us=sum(forward_us),
            optimizer_us=0.0 if step.optimizer is None else step.optimizer.took_us,
        )

    def wrap(self, site: Site, original: Callable[..., Any]) -> Callable[..., Any]:
        """The call of a place, under the clock."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            number = self.counts[site]
            self.counts[site] += 1
            known = self.keys.get(site, ())
            # A slot within itself is already on the clock; a call that was not written down has no entry.
            if self.running[site.slot] or number >= len(known):
                return original(*args, **kwargs)
            self.running[site.slot] += 1
            synchronize(self.device_type)
            start_ns = perf_counter_ns()
            try:
                return original(*args, **kwargs)
            finally:
                synchronize(self.device_type)
                self.inside_us[known[number]] += (perf_counter_ns() - start_ns) / 1000
                self.running[site.slot] -= 1

        return timed


def run(step: Step, model: nn.Module) -> None:
    """Run a step.

    Raises:
        CaptureError: the model raised (the original error is the cause).
    """
    try:
        step.run(model)
    except TuneError:
        raise
    except Exception as error:
        raise CaptureError(
            f"step {step.label!r}: the model raised {type(error).__name__}: {error}; "
            "check that it runs on its example inputs in this mode"
        ) from error


def run_timed(step: Step, model: nn.Module, device_type: str) -> float:
    """Run a step; microseconds.

    Raises:
        CaptureError: as :func:`run`.
    """
    synchronize(device_type)
    start_ns = perf_counter_ns()
    run(step, model)
    synchronize(device_type)
    return (perf_counter_ns() - start_ns) / 1000


def synchronize(device_type: str) -> None:
    """Wait for the device."""
    if device_type == "cuda":
        torch.cuda.synchronize()
    elif device_type != "cpu":
        torch.accelerator.synchronize()


@contextmanager
def _forward_timed(model: nn.Module, device_type: str) -> Iterator[list[float]]:
    """The times of the model's own forwards, in microseconds."""
    times_us: list[float] = []
    began_ns: list[int] = []

    def begins(*_: object) -> None:
        synchronize(device_type)
        began_ns.append(perf_counter_ns())

    def ends(*_: object) -> None:
        synchronize(device_type)
        if began_ns:
            times_us.append((perf_counter_ns() - began_ns.pop()) / 1000)

    hooks = (model.register_forward_pre_hook(begins, prepend=True), model.register_forward_hook(ends))
    try:
        yield times_us
    finally:
        for hook in hooks:
            hook.remove()


def _between(value: float) -> float:
    return min(max(value, 0.0), 1.0)
