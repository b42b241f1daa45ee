"""Kernels that run in Triton's interpreter: checked as any other, and not timed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from twinkle_tune.interpreted import interpreted

ROOT = Path(__file__).parents[2]

_SCRIPT = """
import torch
import triton
import triton.language as tl
from torch import nn

from twinkle_tune import tune_model
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel


class Twice(nn.Module):
    def forward(self, x):
        return x * 2


@triton.jit
def kernel(x, out, n, FACTOR: tl.constexpr, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out + at, tl.load(x + at, mask=at < n) * FACTOR, mask=at < n)


def launched(x, factor):
    out = torch.empty_like(x)
    kernel[(triton.cdiv(x.numel(), 64),)](x, out, x.numel(), FACTOR=factor, SIZE=64)
    return out


def right(self, x):
    return launched(x.contiguous(), 2)


def wrong(self, x):
    return launched(x.contiguous(), 3)


registry = Registry()
register_external_layer(Twice, "Twice", registry=registry)
for impl in (right, wrong):
    register_layer_kernel("Twice", layer_impl=impl, device="cpu", registry=registry)
profile = tune_model(nn.Sequential(Twice()), torch.randn(4, 16), registry=registry, candidates="impl")
(contest,) = profile.contests
for trial in contest.trials[1:]:
    print(trial.candidate, trial.outcome.kind, "|", trial.outcome.reason)
print(contest.selection.winner, contest.status, profile.complete, "|", contest.selection.reason)
"""


class _Executor:
    """Stands in for what runs a kernel's programs in the interpreter."""

    def __call__(self, *args: object) -> None:
        return None


def test_kernels_in_the_interpreter_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the block each launch counts, outside none; what was there is there again, after an error too."""
    module = ModuleType("triton.runtime.interpreter")
    module.__dict__["GridExecutor"] = _Executor
    monkeypatch.setitem(sys.modules, module.__name__, module)
    before = _Executor.__call__
    with interpreted() as ran:
        _Executor()(1)
        _Executor()(2)
    _Executor()(3)
    assert ran.kernels == 2
    with pytest.raises(RuntimeError), interpreted():
        raise RuntimeError
    assert _Executor.__call__ is before


def test_without_the_interpreter_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it imported for that."""
    monkeypatch.delitem(sys.modules, "triton.runtime.interpreter", raising=False)
    with interpreted() as ran:
        pass
    assert ran.kernels == 0
    assert "triton.runtime.interpreter" not in sys.modules


@pytest.mark.slow
def test_a_kernel_in_the_interpreter_is_right_or_wrong_and_never_slow(tmp_path: Path) -> None:
    """A right one is untimed and says why, a wrong one is refused; the original stays, and the run is complete."""
    pytest.importorskip("triton")
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    right, wrong, chosen = done.stdout.splitlines()
    assert right == "impl:right untimed | right (interpreter); not timed: the interpreter's speed says nothing"
    assert wrong.startswith("impl:wrong rejection | point ")
    assert chosen.startswith("original kept True | no candidate could be timed here: right (interpreter)")
