"""An op takes the short way where it can, refuses what does not fit, and says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from twinkle_tune.errors import ConfigError, ShapeError, SourceError
from twinkle_tune.ops import launch
from twinkle_tune.ops.act_and_mul.op import gelu_and_mul, silu_and_mul
from twinkle_tune.ops.fused_add_rms_norm.op import fused_add_rms_norm
from twinkle_tune.ops.layer_norm.op import layer_norm
from twinkle_tune.ops.linear_act.op import linear_act
from twinkle_tune.ops.rms_norm.op import reference, rms_norm

X, W = torch.randn(4, 8), torch.randn(8)


def test_on_a_cpu_the_formula_runs_and_no_op_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of compiled graphs torch's dispatcher sees the formula's operations alone, in any dtype."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with torch.profiler.profile() as seen:
        for dtype in (torch.float32, torch.float64):
            assert torch.equal(rms_norm(X.to(dtype), W.to(dtype)), reference(X.to(dtype), W.to(dtype)))
    assert not [event.key for event in seen.key_averages() if "twinkle_tune" in event.key]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: rms_norm(X, W[:4]), r"got a weight \[4\] for x \[4, 8\], expected \[8\]"),
        (lambda: layer_norm(X, W, W[:4]), r"got a bias \[4\] for x \[4, 8\], expected \[8\]"),
        (lambda: fused_add_rms_norm(X, X[:2]), r"residual \[2, 8\], expected x and residual alike"),
        (lambda: silu_and_mul(X, X[:2]), r"got gate \[4, 8\] and up \[2, 8\], expected equal shapes"),
        (lambda: gelu_and_mul(X[:, :7]), r"expected an even last dimension"),
        (lambda: linear_act(X, X[:, :7]), r"weight \[4, 7\].*expected x \(\.\.\., in\), a weight \(out, in\)"),
        (
            lambda: linear_act(X, X, transposed=True),
            r"weight \[4, 8\].*expected x \(\.\.\., in\), a weight \(in, out\)",
        ),
        (lambda: linear_act(X, X, W), r"bias \[8\].*and a bias \(out\)"),
        (lambda: linear_act(X, X.half()), r"torch.float16, expected .* in one dtype; cast them"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_before_a_kernel_reads_beyond_them(call: Any, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        call()


def test_unknown_approximations_are_refused() -> None:
    with pytest.raises(ValueError, match="got 'erf', expected 'none' or 'tanh'"):
        gelu_and_mul(X, X, approximate="erf")


def test_unknown_activations_are_refused() -> None:
    with pytest.raises(ConfigError, match="got function='tanh', expected one of gelu, gelu_tanh, relu, silu"):
        linear_act(X, X, function="tanh")


def test_under_autocast_a_linear_is_taken_in_its_dtype() -> None:
    """As torch's own layer: input, weight and bias are cast, the result is of that dtype, gradients are the leaves'."""
    x, weight, bias = (t.clone().requires_grad_() for t in (X, torch.randn(6, 8), torch.randn(6)))
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_act(x, weight, bias, function="relu")
        theirs = torch.relu(torch.nn.functional.linear(x, weight, bias))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)
    found, expected = (torch.autograd.grad(y.sum(), (x, weight, bias)) for y in (ours, theirs))
    torch.testing.assert_close(found, expected)


def test_configs_of_another_length_are_refused() -> None:
    """What came through torch's dispatcher as a list is held against the op's parameters."""
    with pytest.raises(ConfigError, match="got 1 values, expected those of rows, warps"):
        launch.named([4], ("rows", "warps"), {})


def test_without_triton_a_kernel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "missing", lambda: "triton is not installed; pip install triton")
    launch._can_run.cache_clear()
    with pytest.raises(SourceError, match="pip install triton, or leave"):
        launch.kernels.__wrapped__("rms_norm")
    launch._can_run.cache_clear()


def test_rows_are_views_where_strides_allow_and_one_copy_elsewhere() -> None:
    """Gaps between rows cost no copy; a last dimension that is not dense, or dimensions that do not merge, do."""
    batch = torch.randn(2, 3, 16)
    gaps = batch[..., :8]
    assert launch.as_rows(gaps).data_ptr() == gaps.data_ptr()
    assert launch.as_rows(gaps).stride() == (16, 1)
    assert launch.as_rows(X.t()).is_contiguous()
    crossed = batch.transpose(0, 1)
    assert torch.equal(launch.as_rows(crossed), crossed.reshape(6, 16))


def test_pretended_architectures_end_with_their_block() -> None:
    """Inside, defaults are those of the architecture named; afterwards as before."""
    before = launch.architecture(torch.device("cpu")), launch.multiprocessors(torch.device("cpu"))
    with launch.pretend(80):
        assert (launch.architecture(torch.device("cpu")), launch.multiprocessors(torch.device("cpu"))) == (80, 108)
    assert (launch.architecture(torch.device("cpu")), launch.multiprocessors(torch.device("cpu"))) == before


def test_registers_are_named_to_nvidias_compiler_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD's refuses an option that it does not know."""
    monkeypatch.setattr(torch.version, "hip", None)
    assert launch.at_most_registers(128) == {"maxnreg": 128}
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert launch.at_most_registers(128) == {}


def test_frozen_weights_have_no_gradient_and_cost_none() -> None:
    """In a compiled graph the backward is told which gradients are wanted."""
    torch._dynamo.reset()
    x = X.clone().requires_grad_()
    compiled: Any = torch.compile(rms_norm, fullgraph=True, backend="aot_eager")
    compiled(x, W).sum().backward()
    twin = X.clone().requires_grad_()
    backward: Any = reference(twin, W).sum().backward
    backward()
    torch.testing.assert_close(x.grad, twin.grad)
    assert W.grad is None
