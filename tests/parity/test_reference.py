"""The original in float64, although its code asks for less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.parity.zoo.ops import OPS, normal
from twinkle_tune.call.arguments import Call
from twinkle_tune.parity.check import Judge
from twinkle_tune.parity.reference import NoReferenceError, float64, references
from twinkle_tune.parity.run import Run, Subject, execute


def reference_of(
    original: Callable[..., Any],
    args: tuple[Any, ...],
    module: nn.Module | None = None,
    *,
    trains: bool = False,
) -> tuple[Run, str]:
    call = Call(args=args, kwargs={})
    subject = None if module is None else Subject.of(module, module)
    baseline = execute(original, call, subject=subject, trains=trains, seed=0)
    runs, note = references(original, [call], [baseline], module=module, trains=trains, seed=0)
    return runs[0], note


def with_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ x.t()


TABLE = torch.linspace(0.0, 1.0, 64)


@pytest.mark.parametrize(
    ("original", "truth"),
    [
        (lambda x: x.float().exp().to(x.dtype), torch.exp),
        (lambda x: x.to(torch.float32).exp(), torch.exp),
        (lambda x: x.to(dtype=torch.bfloat16).exp(), torch.exp),
        (lambda x: x.to("cpu", torch.float16, copy=True).exp(), torch.exp),
        (lambda x: x.half().float().type_as(torch.ones(1)), lambda x: x),
        (lambda x: x.to(torch.ones(1, dtype=torch.float32)), lambda x: x),
        (lambda x: x.type(torch.float32), lambda x: x),
        (lambda x: F.softmax(x, dim=-1, dtype=torch.float32), lambda x: F.softmax(x, dim=-1)),
        (lambda x: x.sum(-1, dtype=torch.float32), lambda x: x.sum(-1)),
        (lambda x: x * torch.tensor(0.1), lambda x: x * 0.1),
        (lambda x: x + torch.arange(64, dtype=torch.float32) / 3, lambda x: x + torch.arange(64) / 3.0),
        (lambda x: x @ TABLE, lambda x: x @ TABLE.double()),
        (with_autocast, lambda x: x @ x.t()),
    ],
)
def test_casts_are_turned_into_float64(original: Callable[[Tensor], Tensor], truth: Callable[[Tensor], Tensor]) -> None:
    """Whatever way the code takes to a narrower dtype, the reference has float64's precision."""
    x = normal(16, 64, dtype=torch.float32)
    run, note = reference_of(original, (x,))
    torch.set_default_dtype(torch.float64)
    try:
        expected = truth(x.double())
    finally:
        torch.set_default_dtype(torch.float32)
    assert note == ""
    assert run.outputs["output"].dtype is torch.float64
    assert (run.outputs["output"] - expected).abs().max() <= 1e-13 * expected.abs().max()


@pytest.mark.parametrize("op", ["rms_norm", "gemma_norm", "mlp", "cross_entropy", "softmax", "rotary"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_real_originals_and_their_gradients_are_in_float64(op: str, dtype: torch.dtype) -> None:
    """Outputs and gradients of layers that cast inside hold more than float32 can."""
    module, args = OPS[op].make(dtype, True)
    run, note = reference_of(OPS[op].original, args, module, trains=True)
    assert note == ""
    assert all(t.dtype is torch.float64 for t in run.tensors.values())
    narrow = {name: t.float().double() for name, t in run.tensors.items()}
    assert any(not torch.equal(t, narrow[name]) for name, t in run.outputs.items())
    assert any(t is not None and not torch.equal(t, narrow[name]) for name, t in run.gradients.items())


def test_the_gradient_agrees_with_finite_differences() -> None:
    """The float64 gradient of a norm that computes in float32 is right to nine digits."""
    module, (x,) = OPS["rms_norm"].make(torch.float32, True)
    assert module is not None
    x = x[:1, :2].detach().requires_grad_()
    run, _ = reference_of(OPS["rms_norm"].original, (x,), module, trains=True)
    sent, gradient = run.incoming["output"].double(), run.gradients["gradient of args[0]"]
    assert gradient is not None

    def value(step: float) -> float:
        moved = x.detach().double()
        moved[0, 1, 3] += step
        wide = OPS["rms_norm"].make(torch.float64, False)[0]
        assert wide is not None
        wide.load_state_dict(module.state_dict())
        with float64():
            out: Tensor = OPS["rms_norm"].original(wide, moved)
        return float((out * sent).sum().detach())

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    assert abs(slope - float(gradient[0, 1, 3])) < 1e-8


def test_the_process_is_left_as_it_was() -> None:
    """The default dtype comes back, also after an error."""
    seen: list[torch.dtype] = []

    def fails() -> None:
        with float64():
            seen.append(torch.ones(1).dtype)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert seen == [torch.float64]
    assert torch.get_default_dtype() is torch.float32


def _only(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    def original(x: Tensor) -> Tensor:
        if x.dtype is not dtype and x.dtype is not torch.float32:
            raise RuntimeError(f"no kernel for {x.dtype}")
        return x.exp()

    return original


def test_what_cannot_run_in_float64_is_run_in_float32_and_noted() -> None:
    """The note says why, and the dtype tells the comparison."""
    run, note = reference_of(_only(torch.bfloat16), (normal(4, 64, dtype=torch.bfloat16),))
    assert run.outputs["output"].dtype is torch.float32
    assert "no kernel for torch.float64" in note


def test_what_runs_in_its_own_dtype_alone_is_its_own_reference() -> None:
    """Where float32 is what it runs in, nothing better is to be had."""
    run, note = reference_of(_only(torch.float32), (normal(4, 64, dtype=torch.float32),))
    assert run.outputs["output"].dtype is torch.float32
    assert note != ""


def test_in_place_code_works() -> None:
    """In-place operations on intermediate tensors are kept in place."""

    def original(x: Tensor) -> Tensor:
        y = torch.zeros_like(x, dtype=torch.float32)
        y.add_(x.float()).mul_(2)
        y[:, 0] = 1.0
        return y

    x = normal(4, 64, dtype=torch.float32)
    run, note = reference_of(original, (x,))
    expected = x.double() * 2
    expected[:, 0] = 1
    assert note == ""
    assert torch.equal(run.outputs["output"], expected)


def _knows_one_dtype(garbage: float, known: tuple[torch.dtype, ...]) -> Callable[[Tensor], Tensor]:
    """Doubles its input in the dtypes that it knows, as a quantised layer's kernel does; else it gives garbage."""
    return lambda x: x * 2 if x.dtype in known else torch.full_like(x, garbage)


@pytest.mark.parametrize("garbage", [0.0, 5e34, 2.7e122, 1e300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_reference_far_from_the_original_is_none(garbage: float, dtype: torch.dtype) -> None:
    """Where float64 gives memory nobody wrote, float32 is taken, or the original's own result."""
    original = _knows_one_dtype(garbage, (torch.float32, torch.bfloat16))
    run, note = reference_of(original, (normal(8, 16, dtype=dtype),))
    assert "no reference" in note
    assert run.outputs["output"].dtype is torch.float32
    assert float(run.outputs["output"].abs().max()) < 20


@pytest.mark.parametrize("garbage", [0.0, 1e30, 2.7e122])
def test_no_reference_at_all_is_inconclusive(garbage: float) -> None:
    """Where both wider dtypes give garbage the judge says so, of every candidate."""
    original, call = (
        _knows_one_dtype(garbage, (torch.bfloat16,)),
        Call(args=(normal(8, 16, dtype=torch.bfloat16),), kwargs={}),
    )
    with pytest.raises(NoReferenceError, match="nor is there one in float32"):
        reference_of(original, call.args)
    judge = Judge(original, [call], module=None, trains=False)
    assert judge.inconclusive is not None
    assert "no reference" in judge.inconclusive.reason
    assert judge.judge(original) is judge.inconclusive


@pytest.mark.parametrize("garbage", [1e122, 1e160, 1e308])
def test_no_size_of_a_reference_raises(garbage: float) -> None:
    """Values whose squares no Python float holds make a contest inconclusive at most."""

    def original(x: Tensor) -> tuple[Tensor, Tensor]:
        big = torch.full((4,), 1e30) if x.dtype is torch.float32 else torch.full((4,), garbage, dtype=torch.float64)
        return x * 2, torch.cat([x.reshape(-1)[:4].to(big.dtype), big])

    judge = Judge(original, [Call(args=(normal(8, 16, dtype=torch.float32),), kwargs={})], module=None, trains=False)
    judge.judge(original)
