"""The figures: each a function that measures one, with the goal that it is held against."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from tests.bench import calls
from tests.bench.figure import Figure
from twinkle_tune.kernel.kernelize import bind_plan, restore_model
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.measure.between import BetweenCpuClock
from twinkle_tune.measure.clock import Clock, CpuClock
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.source.compiled import CompileSource
from twinkle_tune.testing import with_winner

_TORCH = "import torch, time, gc; gc.collect()"
"""Collected, because the objects of torch make the next import of any library pay for a full collection of them."""


def import_cost() -> Figure:
    """What ``import twinkle_tune`` adds to ``import torch``, in fresh interpreters."""
    code = f"{_TORCH}; t = time.perf_counter(); import twinkle_tune; print((time.perf_counter() - t) * 1000)"
    samples = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(7)]
    return Figure(name="import twinkle_tune, on top of import torch", unit="ms", samples=tuple(samples), goal=50)


def first_use_cost() -> Figure:
    """What the first use of ``kernelize_model`` imports, on top of torch: what a user's program pays."""
    code = (
        f"{_TORCH}; t = time.perf_counter(); from twinkle_tune import kernelize_model; "
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
    # What is right is bound below, whether it is faster here or not: the goal is the time of binding.
    profile = with_winner(tune_model(model(1), ids, candidates=["torch"], settings=RaceSettings(max_rounds=20)))
    whole, samples = model(28), []
    for _ in range(9):
        began = time.perf_counter()
        bind_plan(whole, plan_profile(whole, profile, profile.device, profile.mode, default_registry))
        restore_model(whole)
        samples.append(time.perf_counter() - began)
    return Figure(name="check, bind and restore a 28-layer Qwen3", unit="s", samples=tuple(samples), goal=1.0)


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
from twinkle_tune.contest import call
from twinkle_tune.tune import settle

class Nobody:
    def __init__(self, *_, **__): pass
    def judge(self, *_, **__): return Pass(figures=(), deterministic=True)
    again = judge

settle.Whole.settled = lambda self, profile: profile
if "--in-process" in sys.argv:
    call.Judge, call.parity_calls, call.kin_calls = Nobody, lambda *_: (), lambda *_: ()
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
        command = [
            sys.executable,
            "-c",
            _PROFILE,
            "profile",
            "qwen3-tiny",
            "--device",
            "cpu",
            "--no-ways",
            "--out",
            out,
        ]
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
    calls.straight_cost,
    calls.measured_cost,
    calls.questions_cost,
    calls.guarded_cost,
    calls.layer_dispatch_cost,
    calls.function_dispatch_cost,
    calls.way_cost,
    calls.no_way_cost,
    calls.norm_share,
    compiled_rotary_hot,
    compiled_rotary_between,
    checking_cost,
)
