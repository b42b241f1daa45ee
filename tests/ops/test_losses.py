"""What is particular to the two cross entropies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ops.interpreter import run_interpreted
from twinkle_tune.errors import ConfigError, ShapeError
from twinkle_tune.ops.cross_entropy.op import cross_entropy
from twinkle_tune.ops.fused_linear_cross_entropy.op import fused_linear_cross_entropy

X, WEIGHT, TARGET = torch.randn(4, 5), torch.randn(9, 5), torch.tensor([1, 2, -100, 0])
CALLS: list[Callable[..., Tensor]] = [
    cross_entropy,
    lambda x, *args, **rest: fused_linear_cross_entropy(x, WEIGHT, *args, **rest),
]


def test_particular_cases_hold_in_the_interpreter() -> None:
    """Ignored rows, ruled out classes, no classes, large logits, memory."""
    run_interpreted("tests.ops.loss_cases")


@pytest.mark.parametrize("call", CALLS, ids=["cross_entropy", "fused"])
@pytest.mark.parametrize(
    "target", [TARGET[:3], TARGET[None], TARGET.int(), TARGET.float()], ids=["fewer", "2d", "int32", "float"]
)
def test_targets_that_do_not_fit_are_refused(call: Callable[..., Tensor], target: Tensor) -> None:
    """One int64 target a row."""
    with pytest.raises(ShapeError, match=r"expected \(rows, size\) and \(rows\) torch.int64"):
        call(X, target)


@pytest.mark.parametrize("call", CALLS, ids=["cross_entropy", "fused"])
def test_other_reductions_are_refused(call: Callable[..., Tensor]) -> None:
    """The mean or the sum."""
    with pytest.raises(ConfigError, match="got the reduction 'none', expected 'mean' or 'sum'"):
        call(X, TARGET, reduction="none")


@pytest.mark.parametrize("weight", [WEIGHT.T, WEIGHT.half()], ids=["transposed", "float16"])
def test_weights_that_do_not_fit_are_refused(weight: Tensor) -> None:
    """As wide as x, in its dtype."""
    with pytest.raises(ShapeError, match=r"got a weight .* expected \(classes, 5\) in the same dtype"):
        fused_linear_cross_entropy(X, weight, TARGET)
