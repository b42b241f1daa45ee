"""Losses that are scaled: what is sent back into a scalar is not always about one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.zoo.ops import cross_entropy, labels, normal
from tests.parity.zoo.right import RIGHT
from tests.parity.zoo.scaled import early, head_inputs, off_beside_logits, wide_labels, wide_logits, with_logits
from twinkle_tune.call.arguments import Call
from twinkle_tune.catalog.pieces import in_pieces
from twinkle_tune.parity.calls import parity_calls
from twinkle_tune.parity.check import Judge
from twinkle_tune.parity.sent import SCALES
from twinkle_tune.parity.verdict import Pass, Reject


def judge_of(original: Any, *args: Any) -> Judge:
    return Judge(original, parity_calls(Call(args=args, kwargs={}), 0), module=None, trains=True)


def test_small_gradients_that_are_rounded_too_early_are_refused() -> None:
    """In float16 a scaled loss shows it; in float32, which has the exponents for it, there is nothing to lose."""
    refused = judge_of(cross_entropy, wide_logits(torch.float16), wide_labels()).judge(early(1e30))
    assert isinstance(refused, Reject)
    assert refused.tensor == "gradient of args[0]"
    assert isinstance(judge_of(cross_entropy, wide_logits(torch.float32), wide_labels()).judge(early(1e30)), Pass)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_scale_that_is_cut_off_is_refused(dtype: torch.dtype) -> None:
    """A kernel that is right up to an incoming gradient of 1000, in each dtype."""
    logits = normal(48, 200, dtype=dtype, grad=True)
    assert isinstance(judge_of(cross_entropy, logits, labels()).judge(early(1000.0)), Reject)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_right_ones_pass_where_the_original_overflows(dtype: torch.dtype) -> None:
    """A sum over the tokens under the largest scale is beyond float16, at other places in each implementation."""

    def total(logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), target, ignore_index=-100, reduction="sum") * 40

    def by_hand(logits: Tensor, target: Tensor) -> Tensor:
        wide = logits.float() * 1.0
        picked = wide.gather(1, target.clamp(min=0)[:, None])[:, 0]
        return ((wide.logsumexp(1) - picked) * (target != -100)).sum() * 40

    verdict = judge_of(total, normal(48, 200, dtype=dtype, grad=True), labels()).judge(by_hand)
    assert isinstance(verdict, Pass), verdict


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_right_losses_pass(dtype: torch.dtype) -> None:
    """In float16 on many classes, where most gradients are small; in each dtype from a head in pieces."""
    for candidate in RIGHT["cross_entropy"] if dtype is torch.float16 else ():
        verdict = judge_of(cross_entropy, wide_logits(dtype), wide_labels()).judge(candidate)
        assert isinstance(verdict, Pass), (candidate, verdict)
    x, weight = normal(48, 16, dtype=dtype, grad=True), normal(3000, 16, dtype=dtype, grad=True, seed=1, scale=0.05)
    verdict = judge_of(head, x, weight, wide_labels()[:48] // 2).judge(
        lambda a, b, target: in_pieces(a, b, target, -100, "mean")
    )
    assert isinstance(verdict, Pass), verdict


def head(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(x @ weight.T, target)


def test_a_losss_gradient_is_seen_beside_the_logits() -> None:
    """A model gives its loss and its logits: a loss with a gradient that is 3% too large is refused all the same."""

    judge = judge_of(with_logits, *head_inputs(torch.bfloat16, True)[1])
    assert isinstance(judge.judge(with_logits), Pass)
    assert isinstance(judge.judge(off_beside_logits), Reject)


def test_the_first_call_is_as_it_was_captured() -> None:
    """The scales come on made calls."""
    assert SCALES[0] == 1.0
    assert {2.0**15, 2.0**-10} <= set(SCALES)
