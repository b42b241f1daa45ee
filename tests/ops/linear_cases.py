"""Particular cases of ``linear_act`` in the interpreter: ``TRITON_INTERPRET=1 python -m tests.ops.linear_cases``."""

from __future__ import annotations

from collections.abc import Callable

import torch

from twinkle_tune.ops.linear_act.op import linear_act, reference

torch.manual_seed(0)
X, W = torch.randn(7, 20), torch.randn(13, 20)


def a_bias_may_lie_anyhow() -> None:
    """With elements apart, and one for all."""
    for bias in (torch.randn(26)[::2], torch.randn(1).expand(13), torch.randn(13, 2)[:, 0]):
        torch.testing.assert_close(linear_act(X, W, bias), reference(X, W, bias), rtol=1e-5, atol=1e-5)


def what_is_no_number_stays_none() -> None:
    """Relu hides no overflow."""
    x = torch.full((1, 20), float("nan"))
    for function in ("gelu", "gelu_tanh", "relu", "silu"):
        assert linear_act(x, W, function=function).isnan().all(), function


def no_inputs_are_a_bias_alone() -> None:
    """Also backward, where the bias has a gradient."""
    made = [(torch.randn(4, 0), torch.randn(13, 0), torch.arange(13.0)) for _ in range(2)]
    calls: tuple[Callable[..., torch.Tensor], ...] = (linear_act, reference)
    for call, given in zip(calls, made, strict=True):
        for tensor in given:
            tensor.requires_grad_()
        torch.autograd.backward(call(*given).sum())
    for mine, its in zip(*made, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, its.grad)


if __name__ == "__main__":
    a_bias_may_lie_anyhow()
    what_is_no_number_stays_none()
    no_inputs_are_a_bias_alone()
