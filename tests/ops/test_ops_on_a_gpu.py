"""On a CUDA device: the same claims as in the interpreter, and calls of more than 2^31 elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.ops.parity_cases import cases
from twinkle_tune.ops.act_and_mul.op import silu_and_mul
from twinkle_tune.ops.all import op_named, op_names
from twinkle_tune.ops.layer_norm.op import layer_norm
from twinkle_tune.ops.rms_norm.op import rms_norm

pytestmark = pytest.mark.gpu

_ROWS, _WIDTH = 2**19 + 8, 4096


def _cases() -> Iterator[object]:
    for name in op_names():
        for claim, case in cases(op_named(name), "cuda"):
            yield pytest.param(case, id=f"{name} {claim}")


@pytest.mark.parametrize("case", list(_cases()))
def test_kernels_are_right_on_a_gpu(case: Callable[[], object]) -> None:
    """Forward and backward, all dtypes and variants, odd shapes and layouts, by the parity rule.

    A test each: compiling takes seconds, which processes side by side share, and one wrong case hides no other.
    """
    case()


@pytest.mark.parametrize("name", ["rms_norm", "layer_norm", "silu_and_mul"])
def test_more_than_two_to_the_31_elements(name: str) -> None:
    """The last rows of such a call are those of a call with them alone, forward and backward."""
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    x = torch.randn(_ROWS, _WIDTH, device="cuda", dtype=torch.bfloat16)
    sides = []
    for given in (x, x[-8:]):
        leaf = given.detach().requires_grad_()
        if name == "silu_and_mul":
            y = silu_and_mul(leaf, leaf)
        else:
            y = rms_norm(leaf) if name == "rms_norm" else layer_norm(leaf)
        (dx,) = torch.autograd.grad(y, leaf, given)
        sides.append((y[-8:].clone(), dx[-8:].clone()))
        del y, dx
    torch.testing.assert_close(*sides)
