"""Whole models against each other: the original, ours, Liger's patched one, and torch.compile's, in one process."""

from __future__ import annotations

import copy
import importlib
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from twinkle_tune.capture.step import Step, make_steps
from twinkle_tune.catalog.block import outermost_blocks
from twinkle_tune.contest.compiling import uncapped
from twinkle_tune.kernel.kernelize import kernelize_model
from twinkle_tune.measure.clock import Clock, clock_for
from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.profile.schema import Profile
from twinkle_tune.strategy.backend import Backend
from twinkle_tune.terms import Terms
from twinkle_tune.tune.whole import optimizer_of

ROUNDS = 60
OURS = "twinkle_tune"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A way of running the model.

    Attributes:
        name: "original", "twinkle_tune", "liger", or how torch.compile was called.
        model: an instance of its own, of the same weights.
        around: opened around its calls: what is patched for the whole process is there for it alone.
    """

    name: str
    model: nn.Module
    around: Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A rival's time for a step.

    Attributes:
        against: its time over the original's.
        best: who of all but ours was fastest.
        against_best: its time over that one's.
    """

    step: str
    rival: str
    median_us: float
    against: Ratio
    best: str
    against_best: Ratio


def rivals_of(model: nn.Module, profile: Profile, *, compiles: bool = False) -> list[Rival]:
    """The original, ours and torch.compile; Liger where it is installed, runs and knows the architecture.

    In the compile modes everybody but Liger is compiled, and the original is what torch.compile makes of it.
    ``compiles``: whether torch.compile comes in all its forms: static, dynamic, and block by block.
    """
    tuned = kernelize_model(copy.deepcopy(model), profile=profile)
    if profile.mode.compiles:
        both = [torch.compile(copy.deepcopy(model)), torch.compile(tuned)]
        return [_rival(name, cast("nn.Module", each)) for name, each in zip(("original", OURS), both, strict=True)]
    found = [_rival("original", model), _rival(OURS, tuned), _rival("torch.compile", _compiled(model, None))]
    if compiles:
        found += [
            _rival("torch.compile, dynamic", _compiled(model, True)),
            _rival("torch.compile, blocks", _by_blocks(model)),
        ]
    return [*found, *_liger(copy.deepcopy(model), profile.device)]


def _compiled(model: nn.Module, dynamic: bool | None) -> nn.Module:
    made = copy.deepcopy(model)
    # In place: what torch.compile(model) gives generates text uncompiled. A backend of its own: torch.compile else
    # takes what it compiled for another rival.
    made.compile(backend=Backend(gives_up=False), dynamic=dynamic)
    return made


def _by_blocks(model: nn.Module) -> nn.Module:
    made = copy.deepcopy(model)
    for block in outermost_blocks(made):
        block.compile(backend=Backend(gives_up=False))
    return made


def timed(
    rivals: Sequence[Rival], inputs: object, terms: Terms, seconds: float, *, as_ways: bool = False
) -> list[Timed]:
    """Each rival's time for each step: interleaved, in random order, for about ``seconds`` a step and rival.

    ``as_ways``: in the steps in which ways of running the whole model compete.
    """
    clock, chance = clock_for(terms.device), random.Random(0)
    steps = {
        rival.name: make_steps(
            rival.model, inputs, terms.mode, terms.device, optimizer_of(as_ways, terms), growing=as_ways
        )
        for rival in rivals
    }
    results = []
    for index, step in enumerate(steps["original"]):
        calls = {rival.name: _call(rival, steps[rival.name][index]) for rival in rivals}
        # Models of one class share torch.compile's limit of versions: the later rivals would run uncompiled.
        with uncapped(compiles=as_ways):
            times_us = _times(calls, {rival.name: rival.around for rival in rivals}, clock, chance, seconds)
        medians_us = {name: median(times) for name, times in times_us.items()}
        best = min((name for name in medians_us if name != OURS), key=medians_us.__getitem__)
        for name, mine_us in times_us.items():
            results.append(
                Timed(
                    step=step.label,
                    rival=name,
                    median_us=medians_us[name],
                    against=paired_ratio(mine_us, times_us["original"]),
                    best=best,
                    against_best=paired_ratio(mine_us, times_us[best]),
                )
            )
    return results


def _times(
    calls: Mapping[str, Callable[[], object]],
    around: Mapping[str, Callable[[], Any]],
    clock: Clock,
    chance: random.Random,
    seconds: float,
) -> dict[str, list[float]]:
    blocks = {}
    for name, call in calls.items():
        with around[name]():
            call()
            call()
            blocks[name] = clock.block_calls(call)
    times_us: dict[str, list[float]] = {name: [] for name in calls}
    began_s = time.monotonic()
    for done in range(ROUNDS):
        if done >= 8 and time.monotonic() - began_s > seconds * len(calls):
            break
        for name in chance.sample(list(calls), len(calls)):
            with around[name]():
                times_us[name].append(clock.burst_us(calls[name], blocks[name]))
    return times_us


def _call(rival: Rival, step: Step) -> Callable[[], object]:
    return lambda: step.run(rival.model)


def _rival(name: str, model: nn.Module) -> Rival:
    return Rival(name=name, model=model, around=_nothing)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _liger(model: nn.Module, device: str) -> list[Rival]:
    """Liger's own patch of the model, as its documentation says; what it changes in modules is there for it alone."""
    kind = str(getattr(model.config, "model_type", "")) if device == "cuda" else ""
    try:
        patch = getattr(importlib.import_module("liger_kernel.transformers"), f"apply_liger_kernel_to_{kind}")
    except (ImportError, AttributeError):
        return []
    modules = [m for name, m in list(sys.modules.items()) if name.startswith("transformers.") and m is not None]
    before = {id(module): (module, dict(vars(module))) for module in modules}
    patch(model=model)
    changed: list[tuple[ModuleType, str, Any, Any]] = []
    for module, names in before.values():
        for name, value in names.items():
            now = vars(module).get(name)
            if now is not value:
                changed.append((module, name, value, now))
                setattr(module, name, value)

    @contextmanager
    def patched() -> Iterator[None]:
        for module, name, _, now in changed:
            setattr(module, name, now)
        try:
            yield
        finally:
            for module, name, value, _ in changed:
                setattr(module, name, value)

    return [Rival(name="liger", model=model, around=patched)]
