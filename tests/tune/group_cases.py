"""What ranks do that tune a model together: ``python -m tests.tune.group_cases FOLDER`` writes it there."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import tests.shorter  # noqa: F401
from tests import ranks
from tests.kernel.toys import Layer, Model, Norm, inputs, registry
from tests.ranks import cases_of, forked
from tests.told import CLOCKS, Told, told_clock
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.measure.clocks import slot_clock
from twinkle_tune.measure.roof import measured_roof
from twinkle_tune.profile.json_text import profile_text
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.profile.store import Store
from twinkle_tune.source.digest import digest_text
from twinkle_tune.tune.in_process import InProcess
from twinkle_tune.tune.tune import tune_model

WORLD = 3


REAL = {
    f"twinkle_tune.{place}": {"slot_clock": slot_clock, "clock_for": clock_for}[place.rpartition(".")[2]]
    for place in CLOCKS
}
"""The clocks as they are, by their places."""


class Known(nn.Module):
    """A model with layers that the catalog knows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.mlp = nn.RMSNorm(8), nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., 8) to (..., 8)."""
        out: torch.Tensor = self.mlp(self.norm(x))
        return out


class Clock(Told):
    """A told clock that knows whether a race is on, and whether a contest is."""

    races = holds = False

    def burst_us(self, call: Callable[[], object], block_calls: int) -> float:
        """The time of one call."""
        self.races = True
        try:
            return super().burst_us(call, block_calls)
        finally:
            self.races = False


clock = Clock()
Forward = Callable[..., torch.Tensor]


def told_of(profile: Profile) -> ranks.Told:
    """What a profile says: who won, why others are out, the times of the first contest, and its digest."""
    trials = [trial for contest in profile.contests for trial in contest.trials]
    first = profile.contests[0]
    return {
        "won": sorted({contest.selection.winner for contest in profile.contests}),
        "status": sorted({contest.selection.status for contest in profile.contests}),
        "out": sorted({t.outcome.reason for t in trials if t.outcome.kind == "rejection"}),
        "took": {t.candidate: t.outcome.median_us for t in first.trials if t.outcome.kind == "measurement"},
        "why": sorted({contest.selection.reason for contest in profile.contests}),
        "digest": digest_text(profile_text(profile)),
        "raised": "",
    }


def tuned(*candidates: Forward, model: Any = None, rows: int = 4, **options: Any) -> ranks.Told:
    """What comes of tuning a small model, or the error."""
    made = Model(1) if model is None else model
    chosen: ranks.Told = {"registry": registry(*candidates), "candidates": "impl", "group": dist.group.WORLD}
    try:
        return told_of(tune_model(made, inputs(rows), **(chosen | options)))
    except BaseException as error:
        return {"raised": f"{type(error).__name__}: {error}"}


# What is another on each rank is no part of a kernel's code, which must be the same.
SAVES_US = {"left": (20, 4, 5), "right": (8, 16, 12)}
"""Of the 100 µs of a norm, on each rank: the left one is the faster one on rank 0 alone, and the slower on average."""


def left(self: Norm, x: torch.Tensor) -> torch.Tensor:
    """A kernel that is right."""
    clock.us -= SAVES_US["left"][dist.get_rank()]
    return Norm.forward(self, x)


def right(self: Norm, x: torch.Tensor) -> torch.Tensor:
    """A kernel that is right."""
    clock.us -= SAVES_US["right"][dist.get_rank()]
    return Norm.forward(self, x)


def wrong_on_one(self: Norm, x: torch.Tensor) -> torch.Tensor:
    """A kernel that is wrong on rank 1."""
    clock.us -= 20
    return Norm.forward(self, x) + (dist.get_rank() == 1)


def raises_late(self: Norm, x: torch.Tensor) -> torch.Tensor:
    """A kernel that raises on rank 2 once it is timed."""
    clock.us -= 20
    if dist.get_rank() == 2 and clock.races:
        raise RuntimeError("no more")
    return Norm.forward(self, x)


def raises_at_once(self: Norm, x: torch.Tensor) -> torch.Tensor:
    """A kernel that cannot be called on rank 0."""
    if dist.get_rank() == 0:
        raise RuntimeError("not here")
    return Norm.forward(self, x)


def averaged(rank: int) -> ranks.Told:
    """Alone they choose differently, together they choose alike."""
    alone = tuned(left, right, group=None)
    return tuned(left, right) | {"alone": alone.get("won", alone["raised"])}


def refused(rank: int) -> ranks.Told:
    """A kernel is wrong on one of them."""
    return tuned(wrong_on_one)


def raises_in_the_race(rank: int) -> ranks.Told:
    """A kernel raises on one of them once it is timed; the other one goes on."""
    return tuned(raises_late, right)


def does_not_load(rank: int) -> ranks.Told:
    """A kernel cannot be called on one of them."""
    return tuned(raises_at_once, right)


def original_fails_apart(rank: int) -> ranks.Told:
    """The original fails on one of them where it is called by itself."""

    forward = Norm.forward

    def fails(self: Norm, x: torch.Tensor) -> torch.Tensor:
        if dist.get_rank() == 1 and clock.holds:
            raise RuntimeError("not by itself")
        return forward(self, x)

    hold = InProcess._held

    def held(*given: Any) -> Contest:
        clock.holds = True
        try:
            return hold(*given)
        finally:
            clock.holds = False

    with patch.object(InProcess, "_held", held), patch.object(Norm, "forward", fails):
        return tuned(right)


def model_fails(rank: int) -> ranks.Told:
    """The model cannot be run on one of them."""

    class Fails(Layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if rank == 1:
                raise RuntimeError("no such weights")
            return super().forward(x)

    made = Model(1)
    made.layers[0] = Fails()
    return tuned(right, model=made)


def mistake(rank: int) -> ranks.Told:
    """One calls it with an unknown mode."""
    return tuned(left, right, mode="trian" if rank == 2 else "inference")


def another_model(rank: int) -> ranks.Told:
    """One has a layer more."""
    return tuned(left, right, model=Model(2 if rank == 2 else 1))


def another_shape(rank: int) -> ranks.Told:
    """One has inputs of another shape."""
    return tuned(left, right, rows=5 if rank == 1 else 4)


def another_kernel(rank: int) -> ranks.Told:
    """One has not registered a kernel."""
    return tuned(*((left,) if rank == 1 else (left, right)))


def interrupted(rank: int) -> ranks.Told:
    """Ctrl-C in one of them, in the middle."""

    def listen(event: object) -> None:
        if rank == 1 and type(event).__name__ == "RoundTimed":
            raise KeyboardInterrupt

    return tuned(left, right, on_event=listen)


def cannot_listen(kind: str) -> ranks.Told:
    """Who listens on one of them meets an error of its own."""

    def listen(event: object) -> None:
        if dist.get_rank() == 1 and type(event).__name__ == kind:
            raise OSError("my own error")

    return tuned(left, right, on_event=listen)


def cannot_hear_of_a_step(rank: int) -> ranks.Told:
    """Before the whole model is timed."""
    return cannot_listen("StepStarted")


def cannot_hear_of_its_end(rank: int) -> ranks.Told:
    """After the whole model was timed."""
    return cannot_listen("StepFinished")


def another_time(rank: int) -> ranks.Told:
    """The time of one of them runs away: rank 0's decides that the budget suffices."""
    jumps = [0.0]

    def runs() -> float:
        jumps[0] += 1000.0 * (rank == 1)
        return jumps[0]

    with patch("twinkle_tune.peers.time.monotonic", runs):
        return tuned(left, right, budget_s=60.0)


def no_time(rank: int) -> ranks.Told:
    """Rank 0's time runs away: none has any."""
    jumps = [0.0]

    def runs() -> float:
        jumps[0] += 1000.0 * (rank == 0)
        return jumps[0]

    with patch("twinkle_tune.peers.time.monotonic", runs):
        return tuned(left, right, budget_s=60.0)


def remembered(rank: int) -> ranks.Told:
    """What rank 0 remembers none holds again; the others were given no store."""
    store = Store(FOLDER / "store.sqlite") if rank == 0 else None
    first = tuned(left, right, store=store)
    begun: list[object] = []
    again = tuned(left, right, store=store, on_event=begun.append)
    races = sum(type(each).__name__ == "RoundTimed" for each in begun)
    return {"first": first.get("won", first["raised"]), "races": races, **again}


def with_ways(rank: int) -> ranks.Told:
    """Ways of running the whole model compete in one process alone."""
    return tuned(left, right, ways=True)


def real(model: torch.nn.Module) -> ranks.Told:
    """A training step of a model is tuned by a real clock; whoever wins, all have the same profile."""
    with pytest.MonkeyPatch.context() as here:
        for place, clock_of in REAL.items():
            here.setattr(place, clock_of)
        told = tuned(model=model, mode="train", candidates="torch", registry=default_registry)
    return told | {"timed": sorted(told.get("took", ()))}


def in_ddp(rank: int) -> ranks.Told:
    """Each step of the model waits for the gradients of the others."""
    return real(DistributedDataParallel(Known()))


def in_fsdp(rank: int) -> ranks.Told:
    """Each step of the model waits for the weights of the others."""
    model = Known()
    mesh = init_device_mesh("cpu", (WORLD,))
    fully_shard(model.mlp, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return real(model)


CASES = cases_of(
    in_ddp, in_fsdp,
    averaged, refused, raises_in_the_race, does_not_load, original_fails_apart, model_fails, mistake, another_model,
    another_shape, another_kernel, interrupted, another_time, cannot_hear_of_a_step,
    cannot_hear_of_its_end, no_time, remembered, with_ways,
)  # fmt: skip
FOLDER = Path()

if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    patches = pytest.MonkeyPatch()
    told_clock(patches, clock)
    for name in ("SECONDS", "_ALONE_S"):
        patches.setattr(f"twinkle_tune.tune.settle.{name}", 0.05)
    roof = functools.cache(measured_roof)
    roof(torch.device("cpu"), torch.float32)
    patches.setattr("twinkle_tune.tune.order.measured_roof", roof)
    sys.exit(forked(CASES, WORLD, FOLDER))
