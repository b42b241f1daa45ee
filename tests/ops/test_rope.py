"""What is particular to rope."""

from __future__ import annotations

import pytest
import torch

from tests.ops.interpreter import run_interpreted
from twinkle_tune.errors import ShapeError
from twinkle_tune.ops.rope.op import rope


def test_particular_cases_hold_in_the_interpreter() -> None:
    """Layouts, broadcast angles, tokens past 2**31 elements."""
    run_interpreted("tests.ops.rope_cases")


@pytest.mark.parametrize("compiled", [False, True])
def test_angles_that_want_a_gradient_get_one(compiled: bool) -> None:
    """The kernel has none for them, so the formula runs."""
    q, angles = torch.randn(1, 2, 3, 8), torch.randn(2, 1, 3, 8, requires_grad=True)

    def turned() -> torch.Tensor:
        return rope(q, q, *angles)[0].sum()

    (torch.compile(turned, backend="aot_eager") if compiled else turned)().backward()  # type: ignore[no-untyped-call]
    assert angles.grad is not None
    assert angles.grad.count_nonzero() > 0


@pytest.mark.parametrize("change", ["tokens", "dtype", "odd", "too wide"])
def test_rope_refuses_what_does_not_fit(change: str) -> None:
    """Shapes and dtypes are named in the error."""
    q, k, cos = torch.randn(2, 3, 5, 8), torch.randn(2, 1, 5, 8), torch.randn(1, 5, 8)
    k = {"tokens": k[:, :, 1:], "dtype": k.half()}.get(change, k)
    cos = {"odd": cos[..., :3], "too wide": torch.randn(1, 5, 10)}.get(change, cos)
    with pytest.raises(ShapeError, match=r"got q \[2, 3, 5, 8\] torch.float32, k .* expected \(batch, heads"):
        rope(q, k, cos, cos)
