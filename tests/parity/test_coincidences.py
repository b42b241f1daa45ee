"""Sizes that happen to be equal: a sequence as long as a head is wide, as many tokens as classes, heads, experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm, apply_rotary_pos_emb

from tests.parity.zoo import right
from tests.parity.zoo.ops import cross_entropy, normal, seeded
from tests.today import by_day
from twinkle_tune.call.arguments import Call
from twinkle_tune.catalog.rotary import as_function, rotate, rotate_in_place
from twinkle_tune.parity.calls import kin_calls, parity_calls
from twinkle_tune.parity.check import Judge
from twinkle_tune.parity.verdict import Pass, Reject


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """An original with inputs, and implementations of it that are right."""

    original: Callable[..., Any]
    args: tuple[Any, ...]
    right: tuple[Callable[..., Any], ...]
    module: nn.Module | None = None


def hidden(batch: int, tokens: int, width: int, grad: bool) -> Tensor:
    return normal(batch, tokens, width, dtype=torch.float32, grad=grad)


def rotary(grad: bool, *, batch: int = 2, heads: int = 4, kept: int = 2, tokens: int = 6, width: int = 16) -> Situation:
    angles = torch.arange(tokens)[:, None] * 100.0 ** -(torch.arange(width // 2) / (width // 2))
    angles = torch.cat([angles, angles], dim=-1).expand(batch, -1, -1)
    q, k = (
        normal(batch, tokens, each, width, dtype=torch.float32, grad=grad, seed=each).transpose(1, 2)
        for each in (heads, kept)
    )
    return Situation(
        original=apply_rotary_pos_emb,
        args=(q, k, angles.cos(), angles.sin()),
        right=(
            as_function(rotate, False),
            as_function(rotate_in_place, False),
            right.rotary_by_halves,
            right.rotary_complex,
        ),
    )


def rms_norm(grad: bool, *, batch: int = 2, tokens: int = 6, width: int = 32) -> Situation:
    return Situation(
        original=Qwen3RMSNorm.forward,
        args=(hidden(batch, tokens, width, grad),),
        right=(right.fused_rms_norm, right.rms_norm_float32_to_the_end),
        module=Qwen3RMSNorm(width, eps=1e-6),
    )


def layer_norm(grad: bool, *, batch: int = 2, tokens: int = 6, width: int = 32) -> Situation:
    return Situation(
        original=nn.LayerNorm.forward,
        args=(hidden(batch, tokens, width, grad) + 1.5,),
        right=(right.layer_norm_by_hand, right.layer_norm_one_pass),
        module=nn.LayerNorm(width),
    )


def gated_mlp(grad: bool, *, batch: int = 2, tokens: int = 6, width: int = 32, inner: int = 48) -> Situation:
    return Situation(
        original=Qwen3MLP.forward,
        args=(hidden(batch, tokens, width, grad),),
        right=(right.mlp_joined,),
        module=seeded(Qwen3MLP(Qwen3Config(hidden_size=width, intermediate_size=inner)), torch.float32),
    )


def loss(grad: bool, *, tokens: int = 40, classes: int = 64) -> Situation:
    target = torch.randint(classes, (tokens,), generator=torch.Generator().manual_seed(5))
    target[::7] = -100
    return Situation(
        original=cross_entropy,
        args=(normal(tokens, classes, dtype=torch.float32, grad=grad), target),
        right=(right.cross_entropy_by_hand, right.cross_entropy_in_two),
    )


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask, dim=-1) @ v


def attention(grad: bool, *, batch: int = 2, heads: int = 4, tokens: int = 6, width: int = 16) -> Situation:
    causal = torch.full((tokens, tokens), float("-inf")).triu(1).expand(batch, 1, -1, -1)
    args = (normal(batch, heads, tokens, width, dtype=torch.float32, grad=grad, seed=seed) for seed in range(3))
    return Situation(
        original=masked_attention,
        args=(*args, causal),
        right=(lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),),
    )


def by_expert(weights: Tensor, x: Tensor, index: Tensor, share: Tensor) -> Tensor:
    found = torch.zeros_like(x)
    for expert in range(weights.shape[0]):
        token, place = torch.where(index == expert)
        found = found.index_add(0, token, x[token] @ weights[expert].T * share[token, place, None])
    return found


def by_token(weights: Tensor, x: Tensor, index: Tensor, share: Tensor) -> Tensor:
    return torch.einsum("tkij,tj,tk->ti", weights[index], x, share)


def experts(grad: bool, *, tokens: int = 24, width: int = 16, number: int = 8, chosen: int = 2) -> Situation:
    weights = normal(number, width, width, dtype=torch.float32, seed=3)
    index = torch.randint(number, (tokens, chosen), generator=torch.Generator().manual_seed(1))
    x = normal(tokens, width, dtype=torch.float32, grad=grad)
    share = normal(tokens, chosen, dtype=torch.float32, seed=2).softmax(-1)
    return Situation(original=partial(by_expert, weights), args=(x, index, share), right=(partial(by_token, weights),))


CASES: list[tuple[Callable[..., Situation], dict[str, int]]] = [
    *((rotary, dict.fromkeys(alike, 16)) for alike in (
        ["tokens", "width"], ["tokens", "heads"], ["tokens", "kept"], ["batch", "tokens"], ["batch", "heads"],
        ["batch", "width"], ["heads", "kept", "tokens"],
    )),
    (rotary, dict.fromkeys(["batch", "heads", "kept", "tokens", "width"], 8)),
    *((norm, dict.fromkeys(alike, 16)) for norm in (rms_norm, layer_norm, gated_mlp) for alike in (
        ["tokens", "width"], ["batch", "tokens"], ["batch", "width"], ["batch", "tokens", "width"],
    )),
    *((gated_mlp, dict.fromkeys(alike, 16)) for alike in (["tokens", "inner"], ["width", "inner"])),
    (loss, {"tokens": 64, "classes": 64}),
    *((attention, dict.fromkeys(alike, 8)) for alike in (
        ["tokens", "width"], ["tokens", "heads"], ["batch", "tokens"], ["batch", "heads"],
        ["batch", "heads", "tokens", "width"],
    )),
    *((experts, dict.fromkeys(alike, 8)) for alike in (
        ["tokens", "number"], ["tokens", "width"], ["tokens", "chosen"], ["number", "chosen"],
        ["tokens", "width", "number", "chosen"],
    )),
]  # fmt: skip


def _spoiled(result: Any) -> Any:
    """The last row of the whole tensor is lost."""
    first, *rest = result if isinstance(result, tuple) else (result,)
    first = first * 1.01 if first.dim() == 0 else torch.cat([first[:-1], 0 * first[-1:]])
    return (first, *rest) if isinstance(result, tuple) else first


@pytest.mark.parametrize(
    ("make", "sizes"),
    by_day([pytest.param(make, sizes, id=f"{make.__name__}-{'-'.join(sizes)}") for make, sizes in CASES], 3),
)
def test_right_ones_are_right_whatever_sizes_coincide(make: Callable[..., Situation], sizes: dict[str, int]) -> None:
    """Forward and backward, and another size is tried all the same; a wrong one is refused."""
    for trains in (False, True):
        each = make(trains, **sizes)
        call = Call(args=each.args, kwargs={})
        kin = kin_calls(call, 0)
        judge = Judge(
            each.original, parity_calls(call, 0), module=each.module, trains=trains, kin=kin, strictness="strict"
        )
        assert [a.what for a in kin][:1] == ["a size near the captured one"]
        assert not judge.left_out
        for candidate in each.right:
            verdict = judge.judge(candidate)
            assert isinstance(verdict, Pass), (trains, candidate, verdict)
        assert isinstance(judge.judge(lambda *args, o=each.original: _spoiled(o(*args))), Reject)
