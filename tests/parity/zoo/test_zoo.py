"""The zoo: every wrong implementation is refused by a point that is meant for it, every right one passes."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from tests.parity.zoo.all import WRONG, zoo_judge
from tests.parity.zoo.ops import OPS
from tests.parity.zoo.right import RIGHT, attention_sdpa
from tests.parity.zoo.wrong import ALL, Wrong
from tests.today import AGAIN, by_day, of_today
from twinkle_tune.catalog.liger import missing
from twinkle_tune.parity.check import Judge
from twinkle_tune.parity.verdict import Inconclusive, Pass, Reject, Verdict

MANY = range(20)
TODAY = of_today(MANY, len(MANY))
"""One of the seeds, another one each day."""
DTYPES_TODAY = of_today(ALL, 3)
"""One of the dtypes, another one each day: those of :data:`TODAY` meet them all in 60 days."""


@lru_cache(maxsize=128)
def judge_of(op: str, dtype: torch.dtype, trains: bool, seed: int, strict: bool) -> Judge:
    return zoo_judge(op, dtype, trains, seed, strict=strict)


def unseen(wrong: Wrong, dtype: torch.dtype, seed: int) -> str:
    """ "" where the verdict is the expected one, else what it is."""
    verdict = judge_of(wrong.op, dtype, wrong.trains, seed, wrong.strict).judge(wrong.make())
    if isinstance(verdict, Inconclusive) and not wrong.points:
        return ""
    if isinstance(verdict, Reject) and verdict.point in wrong.points and verdict.error > verdict.limit:
        return ""
    return f"{wrong.op}, {wrong.name}, {dtype}, seed {seed}: {verdict}"


def refused(op: str, dtype: torch.dtype, trains: bool, seed: int) -> list[str]:
    """The right ones that do not pass within their limits, the same in each run, and why."""
    judge = judge_of(op, dtype, trains, seed, False)
    verdicts = {right.__name__: judge.judge(right) for right in RIGHT[op]}
    return [f"{op}, {n}, {dtype}, seed {seed}: {v}" for n, v in verdicts.items() if not _passes(v, trains)]


def _passes(verdict: Verdict, trains: bool) -> bool:
    return (
        isinstance(verdict, Pass)
        and verdict.deterministic
        and all(figure.error <= figure.limit for figure in verdict.figures)
        and any("gradient" in figure.tensor for figure in verdict.figures) == trains
    )


def test_the_zoo_is_as_large_as_promised() -> None:
    """At least 80 wrong and 40 right implementations over at least eight ops, told apart by op and name."""
    assert len({(wrong.op, wrong.name) for wrong in WRONG}) == len(WRONG) >= 80
    assert sum(len(all_) for all_ in RIGHT.values()) >= 40
    assert len({wrong.op for wrong in WRONG}) >= 8
    assert RIGHT.keys() == OPS.keys()
    assert {dtype for wrong in WRONG for dtype in wrong.dtypes} == set(ALL)


@pytest.mark.parametrize("op", OPS)
def test_every_wrong_one_is_refused_by_a_point_meant_for_it(op: str) -> None:
    """In each dtype in which it is a mistake, on today's seed of those of :func:`test_twenty_seeds`."""
    assert not [
        found
        for seed in TODAY
        for wrong in sorted((w for w in WRONG if w.op == op), key=lambda w: (w.trains, w.strict))
        for dtype in wrong.dtypes
        if (found := unseen(wrong, dtype, seed))
    ], AGAIN


@pytest.mark.parametrize("trains", [False, True], ids=["inference", "train"])
@pytest.mark.parametrize("op", OPS)
def test_every_right_one_passes(op: str, trains: bool) -> None:
    """In today's dtype, on today's seed, of those of :func:`test_twenty_seeds`."""
    assert not [found for seed in TODAY for dtype in DTYPES_TODAY for found in refused(op, dtype, trains, seed)], AGAIN


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("op", OPS)
def test_twenty_seeds(op: str) -> None:
    """The same for the wrong and the right ones on twenty seeds."""
    wrongs = [wrong for wrong in WRONG if wrong.op == op]
    found = []
    for seed in MANY:
        for dtype in ALL:
            found += [f for w in wrongs if dtype in w.dtypes if (f := unseen(w, dtype, seed))]
            found += [f for trains in (False, True) for f in refused(op, dtype, trains, seed)]
    assert not found


LIGER = ("rms_norm", "gemma_norm", "layer_norm", "mlp", "gemma_mlp", "silu_mul", "rotary", "cross_entropy")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("op", LIGER)
def test_liger_is_right_in_the_interpreter(op: str) -> None:
    """Liger's kernel passes, forward and backward in each dtype; told the wrong thing it is refused."""
    if missing():
        pytest.skip(missing())
    done = subprocess.run(
        [sys.executable, "-m", "tests.parity.zoo.liger", op, "3"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_attention_that_goes_back_from_its_rounded_output(dtype: torch.dtype) -> None:
    """SDPA passes forward, and backward in float32; in half precision it does, or point 3 refuses saturated rows."""
    for seed in range(3):
        forward, backward = (judge_of("attention", dtype, t, seed, False).judge(attention_sdpa) for t in (False, True))
        assert isinstance(forward, Pass), forward
        if dtype is torch.float32 or isinstance(backward, Pass):
            assert isinstance(backward, Pass), backward
        else:
            assert isinstance(backward, Reject)
            assert backward.point == 3
            assert "on call 4 of" in backward.reason  # that with outlier channels


@pytest.mark.parametrize("op", by_day(["softmax", "rms_norm"], 2))
def test_compiled_originals_are_right(op: str) -> None:
    """torch.compile of an original passes, forward and backward."""
    judge = zoo_judge(op, torch.bfloat16, True, 0)
    verdict = judge.judge(torch.compile(OPS[op].original, dynamic=False), for_kin=OPS[op].original)
    assert isinstance(verdict, Pass), verdict
