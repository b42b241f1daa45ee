"""What other tools call right, as rules on the same tensors that the judge compares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Rule = Callable[[Tensor, Tensor, Tensor], bool]
"""Takes the truth in float64, the original's result and the candidate's; says whether it would pass."""


def allclose(r: Tensor, b: Tensor, c: Tensor) -> bool:
    """1e-2 in half precision and 1e-4 in float32, absolute and relative."""
    tolerance = 1e-4 if b.dtype is torch.float32 else 1e-2
    return torch.allclose(c.double(), b.double(), rtol=tolerance, atol=tolerance)


def both_over_a_hundredth(r: Tensor, b: Tensor, c: Tensor) -> bool:
    """Wrong only where an element is off by more than 1e-2 absolutely and relatively."""
    off = (c.double() - b.double()).abs()
    return not bool(((off > 1e-2) & (off > 1e-2 * b.double().abs())).any()) and not bool((c.isnan() & ~b.isnan()).any())


def torch_testing(r: Tensor, b: Tensor, c: Tensor) -> bool:
    """The defaults of torch.testing.assert_close for the dtype."""
    try:
        torch.testing.assert_close(c, b, equal_nan=True)
    except AssertionError:
        return False
    return True


def cosine(r: Tensor, b: Tensor, c: Tensor) -> bool:
    """A cosine of at least 0.99 between the flattened tensors."""
    found = F.cosine_similarity(c.double().flatten(), b.double().flatten(), dim=0)
    return bool(found >= 0.99) or (not bool(b.any()) and not bool(c.any()))


def twice_eager(r: Tensor, b: Tensor, c: Tensor) -> bool:
    """The largest error at most twice the original's largest, plus 1e-5."""
    return bool((c.double() - r).abs().max() <= 2 * (b.double() - r).abs().max() + 1e-5)


RULES: dict[str, Rule] = {
    "allclose, 1e-2 (1e-4 in float32)": allclose,
    "absolute > 1e-2 and relative > 1e-2": both_over_a_hundredth,
    "torch.testing defaults": torch_testing,
    "cosine ≥ 0.99": cosine,
    "at most twice the eager error": twice_eager,
}


def accepts(rule: Rule, r: Tensor, b: Tensor, c: Tensor) -> bool:
    """The rule on one tensor; another shape or dtype is refused whatever the rule, integers must be equal."""
    if c.shape != b.shape or c.dtype != b.dtype:
        return False
    if not b.is_floating_point():
        return torch.equal(b, c)
    return b.numel() == 0 or rule(r.double(), b, c)
