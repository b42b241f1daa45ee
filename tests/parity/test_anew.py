"""Slices whose errors are one error: their noise is measured over more roundings before they are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.zoo.all import zoo_judge
from twinkle_tune.call.arguments import Call
from twinkle_tune.outcome import ParityFigure
from twinkle_tune.parity import check as judging
from twinkle_tune.parity.anew import RUNS, errors_anew, moved
from twinkle_tune.parity.compare import compare
from twinkle_tune.parity.run import execute
from twinkle_tune.parity.verdict import Pass, Reject

SEEDS = range(1, 5)


class _InOneRounding(torch.autograd.Function):
    """silu(gate) * up whose backward computes in float32 and rounds once, as fused kernels do."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate.float()).to(up.dtype) * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = (t.float() for t in ctx.saved_tensors)
        given, sigmoid = gradients[0].float(), torch.sigmoid(gate)
        silu = gate * sigmoid
        back = given * (silu * (1 - sigmoid) + sigmoid) * up
        return back.to(gradients[0].dtype), (given * silu).to(gradients[0].dtype)


def fused(layer: Any, x: Tensor) -> Any:
    return layer.down_proj(_InOneRounding.apply(layer.gate_proj(x), layer.up_proj(x)))  # type: ignore[no-untyped-call]


def test_a_rounding_that_a_row_shares_refuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gated MLP with fewer roundings passes in half precision; by the first run's noise alone it does not."""
    judges = [zoo_judge("mlp", dtype, True, seed) for dtype in (torch.bfloat16, torch.float16) for seed in SEEDS]
    assert all(isinstance(judge.judge(fused), Pass) for judge in judges)
    monkeypatch.setattr(judging, "_LITTLE", 0.0)
    verdicts = [judge.judge(fused) for judge in judges]
    assert any(isinstance(verdict, Reject) and verdict.point == 3 for verdict in verdicts)


def test_a_wrong_row_stays_wrong() -> None:
    """A row that is off by three times its limit is refused, however often the original is run."""

    def wrong(layer: Any, x: Tensor) -> Tensor:
        out: Tensor = fused(layer, x)
        scale = torch.ones(out.shape[-1], dtype=out.dtype)
        scale[5] += 4 * torch.finfo(out.dtype).eps
        return out * scale

    verdict = zoo_judge("mlp", torch.bfloat16, False, 1).judge(wrong)
    assert isinstance(verdict, Reject)
    assert verdict.point == 3
    assert 1 < verdict.error / verdict.limit < judging._LITTLE


def test_the_noise_of_a_slice_is_that_of_all_roundings() -> None:
    """What is refused beside a lucky rounding passes beside usual ones; what is six times as far off does not."""
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(64, 128, generator=generator, dtype=torch.float64)
    noise = torch.full((64, 1), 1e-3, dtype=torch.float64)
    noise[7] = 6e-3
    b = r + noise * torch.randn(64, 128, generator=generator, dtype=torch.float64)
    b[7] = r[7]

    def off(times: float) -> Tensor:
        c = b.clone()
        c[7] += times * noise[7]
        return c.float()

    anew = []
    for _ in range(RUNS):
        error = (noise * torch.randn(64, 128, generator=generator, dtype=torch.float64)).square()
        anew.append([error.sum(dim=1), error.sum(dim=0)])
    alone, beside, wrong = (compare(r, b.float(), off(n), anew=more) for n, more in ((1, ()), (1, anew), (6, anew)))
    assert isinstance(alone, Reject)
    assert alone.point == 3
    assert isinstance(beside, ParityFigure)
    assert isinstance(wrong, Reject)


def test_the_noise_of_a_tensor_is_that_of_all_roundings() -> None:
    """Where all errors of a tensor are one error, a lucky one of the original says as little of its rivals."""
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(64, 128, generator=generator, dtype=torch.float64)

    def all_off(by: float) -> Tensor:
        return (r * (1 + by)).float()

    anew = []
    for by in torch.randn(RUNS, generator=generator, dtype=torch.float64).mul(1e-4).tolist():
        error = (all_off(by).double() - r).square()
        anew.append([error.sum(dim=1), error.sum(dim=0)])
    b = all_off(2e-5)
    alone, beside, wrong = (
        compare(r, b, all_off(by), anew=more) for by, more in ((1e-4, ()), (1e-4, anew), (1e-3, anew))
    )
    assert isinstance(alone, Reject)
    assert alone.point == 2
    assert isinstance(beside, ParityFigure)
    assert isinstance(wrong, Reject)


def test_inputs_move_by_about_a_unit_in_the_last_place() -> None:
    """Zeros, infinities, integers, dtypes and shared tensors stay; what required a gradient does."""
    x = torch.tensor([0.0, 1.0, -3.0, float("inf")], dtype=torch.bfloat16).repeat(256).requires_grad_()
    near = moved(Call(args=(x, x, torch.arange(3)), kwargs={"scale": 2.0}), {}, 0)
    first, second, index = near.args
    assert (first is second, first.requires_grad, first.dtype) == (True, True, torch.bfloat16)
    assert torch.equal(index, torch.arange(3))
    apart = (first.detach().float() - x.detach().float())[torch.isfinite(x)]
    assert torch.equal(first.detach()[0::4], x.detach()[0::4])
    assert torch.equal(first.detach()[3::4], x.detach()[3::4])
    assert 0.002 < apart.square().mean().sqrt() < 0.05


def test_an_original_that_takes_no_other_values_is_left_alone() -> None:
    """What it says to values that nobody gave it ends nothing."""
    x = torch.ones(4, 64)

    def picky(x: Tensor) -> Tensor:
        if not bool((x == 1).all()):
            raise ValueError("ones only")
        return x.sin()

    call = Call(args=(x,), kwargs={})
    run = execute(picky, call, subject=None, trains=False, seed=0)
    assert errors_anew(picky, call, run, subject=None, module=None, trains=False, seed=0) == {}
