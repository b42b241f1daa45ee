"""The figures: each a function that measures one, with the goal that it is held against."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import nan
from pathlib import Path
from statistics import median

import torch
from torch import nn

from twinkle_tune.kernel.dispatch import RowsFrom, Rule, family_of, layer_dispatcher
from twinkle_tune.kernel.dispatch_function import function_dispatcher
from twinkle_tune.kernel.kernelize import bind_plan, restore_model
from twinkle_tune.kernel.patch import Binding, bind_forward, restore_forward
from twinkle_tune.kernel.plan import plan_profile
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.measure.between import BetweenCpuClock
from twinkle_tune.measure.clock import Clock, CpuClock
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.source.compiled import CompileSource
from twinkle_tune.workload import observe


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure: all samples in ``unit``, and the goal that their median must not exceed (None: no goal).

    One without samples says why it was not measured (``skipped``), and misses nothing.
    """

    name: str
    unit: str
    samples: tuple[float, ...]
    goal: float | None = None
    skipped: str = ""

    @property
    def median(self) -> float:
        """Median of the samples; not a number without any."""
        return median(self.samples) if self.samples else nan

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return bool(self.skipped) or self.goal is None or self.median <= self.goal

    @property
    def text(self) -> str:
        """ "12.3 ms (11.9 to 13.0, n=9)"."""
        if self.skipped:
            return self.skipped
        low, high = min(self.samples), max(self.samples)
        return f"{self.median:.3g} {self.unit} ({low:.3g} to {high:.3g}, n={len(self.samples)})"

    @property
    def goal_text(self) -> str:
        """ "at most 50 ms"."""
        return "none" if self.goal is None else f"at most {self.goal:g} {self.unit}"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        samples = [round(sample, 4) for sample in self.samples]
        told = {"skipped": self.skipped} if self.skipped else {"samples": samples, "median": self.median}
        return {"name": self.name, "unit": self.unit, **told, "goal": self.goal}


def import_cost() -> Figure:
    """What ``import twinkle_tune`` adds to ``import torch``, in fresh interpreters."""
    code = "import torch, time; t = time.perf_counter(); import twinkle_tune; print((time.perf_counter() - t) * 1000)"
    samples = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(7)]
    return Figure(name="import twinkle_tune, on top of import torch", unit="ms", samples=tuple(samples), goal=50)


def first_use_cost() -> Figure:
    """What the first use of ``kernelize_model`` imports, on top of torch: what a user's program pays."""
    code = (
        "import torch, time; t = time.perf_counter(); from twinkle_tune import kernelize_model; "
        "print((time.perf_counter() - t) * 1000)"
    )
    samples = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(7)]
    return Figure(
        name="from twinkle_tune import kernelize_model, on top of torch", unit="ms", samples=tuple(samples), goal=300
    )


def help_time() -> Figure:
    """``twinkle-tune --help`` as a whole process."""
    samples = []
    for _ in range(9):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "twinkle_tune.cli", "--help"], check=True, capture_output=True)
        samples.append(time.perf_counter() - began)
    return Figure(name="twinkle-tune --help, whole process", unit="s", samples=tuple(samples), goal=0.5)


def bind_time() -> Figure:
    """Planning, binding and restoring a profile's winners on a Qwen3 of 28 layers (hidden size 64)."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from twinkle_tune.tune.tune import tune_model

    def model(layers: int) -> nn.Module:
        config = Qwen3Config(
            hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, vocab_size=256,
        )  # fmt: skip
        made: nn.Module = Qwen3ForCausalLM(config)
        return made

    ids = {"input_ids": torch.randint(0, 256, (1, 32))}
    # Whatever wins here is bound below: the goal is the time of binding, not of the kernels.
    profile = tune_model(model(1), ids, candidates=["torch"], settings=RaceSettings(max_rounds=20))
    if not profile.winners:
        raise SystemExit(
            "bench: no kernel won on this machine, so there is nothing to bind; run it again when it is quiet"
        )
    whole, samples = model(28), []
    for _ in range(9):
        began = time.perf_counter()
        bind_plan(whole, plan_profile(whole, profile, profile.device, profile.mode, default_registry))
        restore_model(whole)
        samples.append(time.perf_counter() - began)
    return Figure(name="check, bind and restore a 28-layer Qwen3", unit="s", samples=tuple(samples), goal=1.0)


class _Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def straight_cost() -> Figure:
    """A layer with one bound winner against its original: the same code, so that only the binding differs."""
    bound, original, x = _Nothing(), _Nothing(), torch.zeros(4, 8)
    bind_forward(bound, _Nothing.forward, Binding(slot="s", path="", candidate="c", rows="all"))
    # A difference of nothing between calls of a microsecond needs more rounds than the others.
    samples = _paired_ns(lambda: bound(x), lambda: original(x), calls=10_000, rounds=101)
    restore_forward(bound)
    return Figure(name="a bound single winner, per call", unit="ns", samples=samples, goal=20)


class _Parts(nn.Module):
    """A layer with the submodules of a gated MLP, which does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(8, 8) for _ in range(3))
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def guarded_cost() -> Figure:
    """A bound winner of a layer with four submodules, which are looked at in each call, against its original."""
    bound, original, x = _Parts(), _Parts(), torch.zeros(4, 8)
    bind_forward(bound, _Parts.forward, Binding(slot="s", path="", candidate="c", rows="all"))
    samples = _paired_ns(lambda: bound(x), lambda: original(x))
    restore_forward(bound)
    return Figure(
        name="a bound winner of a layer with four submodules, per call", unit="ns", samples=samples, goal=1000
    )


def layer_dispatch_cost() -> Figure:
    """A layer that dispatches by row count, over three measured ranges, against its original."""
    rules = [Rule(low=1, high=1, winner="a"), Rule(low=16, high=128, winner="b"), Rule(low=512, high=2048, winner="c")]
    calls = dict.fromkeys("abc", _Nothing.forward)
    call = layer_dispatcher(rules, calls, _Nothing.forward, RowsFrom())
    bound, original, x = _Nothing(), _Nothing(), torch.zeros(1, 1024, 8)
    bind_forward(bound, call, Binding(slot="s", path="", candidate="c", rows="by rows"))
    samples = _paired_ns(lambda: bound(x), lambda: original(x))
    return Figure(name="a layer's shape dispatcher, per call", unit="ns", samples=samples, goal=1000)


def function_dispatch_cost() -> Figure:
    """A function slot with a rotary's four tensors, dispatched by family and row count, against the function itself."""

    def rotary(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return q

    args = (torch.zeros(1, 4, 16, 8), torch.zeros(1, 2, 16, 8), torch.zeros(1, 16, 8), torch.zeros(1, 16, 8))
    found = family_of(observe("bench:rotary", args, {}), "cpu")
    assert found is not None
    steps = ((1, 1, rotary), (64, 4096, rotary))
    family = replace(found, steps=steps)
    dispatch = function_dispatcher([family], rotary)
    with torch.no_grad():
        samples = _paired_ns(lambda: dispatch(*args), lambda: rotary(*args))
    return Figure(name="a function's dispatcher (4 tensors), per call", unit="ns", samples=samples, goal=1000)


def _paired_ns(
    one: Callable[[], object], other: Callable[[], object], calls: int = 20_000, rounds: int = 15
) -> tuple[float, ...]:
    """What ``one`` takes longer than ``other``, nanoseconds a call; blocks in random order, paired by round."""
    chance = random.Random(0)

    def block(call: Callable[[], object]) -> float:
        began = time.perf_counter_ns()
        for _ in range(calls):
            call()
        return (time.perf_counter_ns() - began) / calls

    block(one), block(other)
    differences = []
    gc.disable()
    try:
        for _ in range(rounds):
            times = {id(call): block(call) for call in chance.sample((one, other), 2)}
            differences.append(times[id(one)] - times[id(other)])
    finally:
        gc.enable()
    return tuple(differences)


def compiled_rotary_hot() -> Figure:
    """A compiled rotary embedding over the original, called over and over."""
    return _compiled_rotary("a compiled rotary over the original, called over and over", CpuClock())


def compiled_rotary_between() -> Figure:
    """The same between other operations, as in a model: why slots are timed so."""
    return _compiled_rotary("a compiled rotary over the original, between other operations", BetweenCpuClock())


def _compiled_rotary(name: str, clock: Clock) -> Figure:
    from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

    slot = Slot(name="rotary", kind=SlotKind.FUNCTION, target="transformers.models.qwen3.modeling_qwen3:rotary")
    compiled = CompileSource().load(slot, apply_rotary_pos_emb).call
    q, k = torch.randn(1, 128, 4, 64).transpose(1, 2), torch.randn(1, 128, 2, 64).transpose(1, 2)
    angles = torch.randn(1, 128, 32).repeat(1, 1, 2)
    with torch.no_grad():
        calls = [partial(call, q, k, angles.cos(), angles.sin()) for call in (compiled, apply_rotary_pos_emb)]
        sizes = [clock.block_calls(call) for call in calls]
        times = [[clock.burst_us(call, size) for call, size in zip(calls, sizes, strict=True)] for _ in range(15)]
    return Figure(name=name, unit="of its time", samples=tuple(mine / its for mine, its in times))


_PROFILE = """
import sys
from twinkle_tune.cli.app import run
from twinkle_tune.parity.verdict import Pass
from twinkle_tune.tune import arena, settle

class Nobody:
    def __init__(self, *_, **__): pass
    def judge(self, *_, **__): return Pass(figures=(), deterministic=True)
    again = judge

settle.Whole.settled = lambda self, profile: profile
if "--in-process" in sys.argv:
    arena.Judge, arena.parity_calls, arena.kin_calls = Nobody, lambda *_: (), lambda *_: ()
sys.exit(run(sys.argv[1:]))
"""
"""A whole ``twinkle-tune profile`` that leaves out the whole model's timing, and in process the gate too."""


def checking_cost() -> Figure:
    """A profile run, with the parity gate and in a worker process, over timing alone in one process.

    Both are whole commands of their own, from Python's start to the written profile, so that the worker's start
    counts. Timing the whole model is left out of both: it is the same, and would make the ratio smaller.
    """

    def run_s(folder: str, *options: str) -> float:
        out = str(Path(folder, "p.json"))
        command = [sys.executable, "-c", _PROFILE, "profile", "qwen3-tiny", "--device", "cpu", "--out", out]
        began = time.perf_counter()
        subprocess.run([*command, "--fresh", "--json", *options], check=True, capture_output=True, env=environment)
        return time.perf_counter() - began

    environment = {**os.environ, "TWINKLE_TUNE_STORE": "off"}
    chance, samples = random.Random(0), []
    with tempfile.TemporaryDirectory() as folder:
        run_s(folder)  # what was compiled before is not compiled again, in either
        for _ in range(5):
            took_s = {options: run_s(folder, *options) for options in chance.sample(((), ("--in-process",)), 2)}
            samples.append(took_s[()] / took_s["--in-process",])
    return Figure(
        name="profile qwen3-tiny with the parity gate in a worker process, over timing alone in one process",
        unit="times", samples=tuple(samples), goal=2,
    )  # fmt: skip


FIGURES: Sequence[Callable[[], Figure]] = (
    import_cost,
    first_use_cost,
    help_time,
    bind_time,
    straight_cost,
    guarded_cost,
    layer_dispatch_cost,
    function_dispatch_cost,
    compiled_rotary_hot,
    compiled_rotary_between,
    checking_cost,
)
