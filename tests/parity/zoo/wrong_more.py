"""More mistakes in values: layers, activations, losses, attention; forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.zoo.ops import add_and_norm, attention, cross_entropy, gelu_erf, gelu_tanh, silu_mul, softmax
from tests.parity.zoo.right import cross_entropy_by_hand, fused_rms_norm, linear_in_blocks
from tests.parity.zoo.wrong import HALVES, Wrong, wrong

FLOAT32 = (torch.float32,)


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied with a tensor or number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Any) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def gradient_times(x: Tensor, factor: Any) -> Any:
    return _Scaled.apply(x, factor)  # type: ignore[no-untyped-call]


def _last_lost(x: Tensor, dim: int, count: int = 1) -> Tensor:
    """Ones shaped like ``x``, the last ``count`` indices of a dimension zero."""
    factor = torch.ones_like(x.detach())
    factor.narrow(dim, x.shape[dim] - count, count).zero_()
    return factor


# Layers


def _linear_bfloat16_sums(self: Any, x: Tensor) -> Any:
    """Split over the inner dimension, partial sums rounded after each part."""
    total = torch.zeros(*x.shape[:-1], self.weight.shape[0], dtype=x.dtype)
    for a, b in zip(x.chunk(24, dim=-1), self.weight.chunk(24, dim=-1), strict=True):
        total = (total.float() + F.linear(a, b).float()).to(x.dtype)
    return total + self.bias


def _linear_tf32(self: Any, x: Tensor) -> Any:
    def rounded(t: Tensor) -> Tensor:
        return ((t.view(torch.int32) + 4096) & ~8191).view(torch.float32) if not t.requires_grad else t

    return F.linear(rounded(x), rounded(self.weight.detach()), self.bias)


def _layer_norm(self: Any, x: Tensor, *, mean: float = 1.0, eps: float | None = None) -> Any:
    wide = x.float()
    centred = wide - mean * wide.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + (self.eps if eps is None else eps))
    return (centred * scale * self.weight + self.bias).to(x.dtype)


def _mlp_inner_short(self: Any, x: Tensor) -> Any:
    inner = F.silu(self.gate_proj(x)) * self.up_proj(x)
    return F.linear(inner[..., :-2], self.down_proj.weight[:, :-2])


LAYERS = (
    wrong("linear", "bias forgotten", lambda s, x: F.linear(x, s.weight), 2),
    wrong("linear", "bias twice", lambda s, x: F.linear(x, s.weight, s.bias * 2), 2),
    wrong("linear", "last outputs rolled", lambda s, x: linear_in_blocks(s, x).roll(1, -1), 2),
    wrong("linear", "off by 1%", lambda s, x: linear_in_blocks(s, x) * 1.01, 2, 3, dtypes=(*FLOAT32, torch.float16)),
    wrong("linear", "partial sums rounded to half", _linear_bfloat16_sums, 2, 3, 4, dtypes=HALVES),
    wrong("linear", "inputs rounded to ten bits", _linear_tf32, 2, dtypes=FLOAT32),
    wrong("linear", "weight gradient without the last row",
          lambda s, x: F.linear(x, gradient_times(s.weight, _last_lost(s.weight, 0)), s.bias), 2, 3, trains=True),
    wrong("linear", "input gradient halved",
          lambda s, x: F.linear(gradient_times(x, 0.5), s.weight, s.bias), 2, trains=True),
    wrong("linear", "bias gradient of one token only",
          lambda s, x: F.linear(x, s.weight, gradient_times(s.bias, 1 / 48)), 2, trains=True),
    wrong("layer_norm", "mean not subtracted", lambda s, x: _layer_norm(s, x, mean=0.0), 2),
    wrong("layer_norm", "eps ten times", lambda s, x: _layer_norm(s, x, eps=1e-4), 2),
    wrong("layer_norm", "weight gradient without the last column",
          lambda s, x: F.layer_norm(x, (x.shape[-1],), gradient_times(s.weight, _last_lost(s.weight, 0)), s.bias,
                                    s.eps), 2, 3, 4, trains=True),
    wrong("gemma_norm", "eps 1e-5", lambda s, x: F.rms_norm(
        x.float(), (x.shape[-1],), 1.0 + s.weight.float(), 1e-5).to(x.dtype), 2),
    wrong("rms_norm", "input gradient of the last token lost",
          lambda s, x: fused_rms_norm(s, gradient_times(x, _last_lost(x, 1))), 2, 3, trains=True),
    wrong("rms_norm", "scale taken as a constant",
          lambda s, x: s.weight * (x.float() * torch.rsqrt(
              x.detach().float().square().mean(-1, keepdim=True) + s.variance_epsilon)).to(x.dtype),
          2, 3, 4, trains=True),
    wrong("mlp", "inner width two short", _mlp_inner_short, 2, 3),
    wrong("mlp", "no gate", lambda s, x: s.down_proj(s.up_proj(x)), 2),
    wrong("mlp", "relu for silu", lambda s, x: s.down_proj(F.relu(s.gate_proj(x)) * s.up_proj(x)), 2),
    wrong("mlp", "gate detached",
          lambda s, x: s.down_proj(F.silu(s.gate_proj(x)).detach() * s.up_proj(x)), 1, trains=True),
)  # fmt: skip


# Elementwise


def _rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, pairs: bool = False) -> tuple[Tensor, Tensor]:
    def turned(x: Tensor) -> Tensor:
        if pairs:
            half = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        else:
            half = torch.cat([-x.chunk(2, dim=-1)[1], x.chunk(2, dim=-1)[0]], dim=-1)
        return x * cos[:, None] + half * sin[:, None]

    return turned(q), turned(k)


def _gelu_tanh(x: Tensor, *, cubic: float = 0.044715, root: float = 0.7978845608028654) -> Tensor:
    wide = x.float()
    return (0.5 * wide * (1.0 + torch.tanh(root * (wide + cubic * wide**3)))).to(x.dtype)


def _naive_silu(gate: Tensor, up: Tensor) -> Tensor:
    """In half precision: the derivative of 1 / (1 + exp(-x)) overflows from x = -11 on."""
    return gate / (1 + torch.exp(-gate)) * up


ELEMENTWISE = (
    wrong("rotary", "pairs for halves", lambda q, k, c, s: _rotary(q, k, c, s, pairs=True), 2),
    wrong("rotary", "positions off by one", lambda q, k, c, s: _rotary(q, k, c.roll(1, 1), s.roll(1, 1)), 2),
    wrong("rotary", "sine and cosine swapped", lambda q, k, c, s: _rotary(q, k, s, c), 2),
    wrong("rotary", "query and key swapped heads", lambda q, k, c, s: _rotary(q.flip(1), k, c, s), 2),
    wrong("rotary", "gradient turned the same way",
          lambda q, k, c, s: (_rotary(q, k, c, s)[0].detach() + _rotary(q - q.detach(), k, c, -s)[0],
                              _rotary(q, k, c, s)[1]), 2, trains=True),
    wrong("silu_mul", "other one gated", lambda g, u: F.silu(u) * g, 2),
    wrong("silu_mul", "hard swish", lambda g, u: F.hardswish(g) * u, 2),
    wrong("silu_mul", "naive exponential", _naive_silu, 1, 2, 3, 4, trains=True, dtypes=(torch.float16,)),
    wrong("silu_mul", "derivative of silu without its second term",
          lambda g, u: g * torch.sigmoid(g).detach() * u, 2, trains=True),
    wrong("silu_mul", "last column lost", lambda g, u: silu_mul(g, u) * _last_lost(g, -1), 2, 3),
    wrong("gelu", "sigmoid of 1.6 x", lambda x: x * torch.sigmoid(1.6 * x), 2),
    wrong("gelu", "tanh for erf under strict", gelu_tanh, 5, dtypes=HALVES, strict=True),
    wrong("gelu", "negative tail cut off", lambda x: torch.where(x < -3, torch.zeros_like(x), gelu_erf(x)),
          2, 3, 4, 5, strict=True, dtypes=FLOAT32),
    wrong("gelu", "gradient of the quick one",
          lambda x: gelu_erf(x).detach() + (lambda q: q - q.detach())(x * torch.sigmoid(1.702 * x)), 2, trains=True),
    wrong("gelu_tanh", "cubic term 0.044", lambda x: _gelu_tanh(x, cubic=0.044), 2, 3, 4, 5, dtypes=FLOAT32),
    wrong("gelu_tanh", "root of two over pi as 0.8", lambda x: _gelu_tanh(x, root=0.8), 2, 3, 4, dtypes=FLOAT32),
    wrong("gelu_tanh", "relu", F.relu, 2),
)  # fmt: skip


# Reductions and losses


def _softmax_overflows(x: Tensor) -> Tensor:
    """In float32 it would take values over 88, which no call here has."""
    powers = torch.exp(x)
    return powers / powers.sum(-1, keepdim=True)


def _softmax_tail(x: Tensor) -> Tensor:
    powers = torch.exp(x.float() - x.detach().float().amax(-1, keepdim=True))
    return (powers / powers[..., :-4].sum(-1, keepdim=True)).to(x.dtype)


def _softmax_without_rescaling(x: Tensor) -> Tensor:
    """Online, and the sum so far is not rescaled when a larger maximum comes."""
    wide = x.float()
    top = torch.full((*x.shape[:-1], 1), float("-inf"))
    total = torch.zeros_like(top)
    for block in wide.chunk(6, dim=-1):
        top = torch.maximum(top, block.detach().amax(-1, keepdim=True))
        total = total + torch.exp(block - top).sum(-1, keepdim=True)
    return (torch.exp(wide - top) / total).to(x.dtype)


def _labels_shifted(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(logits, torch.where(target == -100, target, (target + 1) % logits.shape[-1]))


REDUCTIONS = (
    wrong("softmax", "no maximum subtracted", _softmax_overflows, 1, 2, 3, 4, dtypes=(torch.float16,)),
    wrong("softmax", "sum without the tail", _softmax_tail, 2),
    wrong("softmax", "online without rescaling", _softmax_without_rescaling, 2),
    wrong("softmax", "temperature 1.01", lambda x: softmax(x / 1.01), 2, 3, 4, dtypes=(*FLOAT32, torch.float16)),
    wrong("softmax", "in bfloat16", lambda x: softmax(x.bfloat16()).to(x.dtype), 2, dtypes=(*FLOAT32, torch.float16)),
    wrong("softmax", "logarithm", lambda x: F.log_softmax(x.float(), -1).to(x.dtype), 2),
    wrong("softmax", "gradient without the sum",
          lambda x: softmax(x).detach() + (lambda z: z - z.detach())(softmax(x).detach() * x), 2, trains=True),
    wrong("softmax", "gradient doubled", lambda x: softmax(gradient_times(x, 2.0)), 2, trains=True),
    wrong("cross_entropy", "labels smoothed",
          lambda x, t: F.cross_entropy(x.float(), t, ignore_index=-100, label_smoothing=0.01), 2),
    wrong("cross_entropy", "labels off by one", _labels_shifted, 2),
    wrong("cross_entropy", "first column left out",
          lambda x, t: cross_entropy(x[:, 1:], torch.where(t == -100, t, (t - 1).clamp(min=0))), 2),
    wrong("cross_entropy", "gradient not divided by the tokens",
          lambda x, t: cross_entropy_by_hand(gradient_times(x, 41.0), t), 2, trains=True),
    wrong("cross_entropy", "gradient also for ignored tokens",
          lambda x, t: cross_entropy(x, t) + (lambda z: z - z.detach())(x[t == -100].float().mean()),
          2, 3, 4, trains=True),
    wrong("cross_entropy", "in bfloat16", lambda x, t: cross_entropy(x.bfloat16(), t), 2, 4, dtypes=FLOAT32,
          trains=True),
)  # fmt: skip


# Attention and the norm of a sum


def _attention(
    q: Tensor, k: Tensor, v: Tensor, *, diagonal: int = 1, scale: float = 0.25, keys: int = 0,
    low: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    rows, columns = q.shape[-2], k.shape[-2]
    hidden = torch.ones(rows, columns, dtype=torch.bool).triu(diagonal)
    hidden[1:, columns - keys :] = True
    scores = (q.float() @ k.float().transpose(-1, -2) * scale).masked_fill(hidden, -1e30)
    return (F.softmax(scores.to(low), dim=-1).float() @ v.float()).to(q.dtype)


def _heads(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda q, k, v: attention(q, change(k), v)


ATTENTION = (
    wrong("attention", "not causal", lambda q, k, v: _attention(q, k, v, diagonal=99), 2),
    wrong("attention", "sees one token ahead", lambda q, k, v: _attention(q, k, v, diagonal=2), 2),
    wrong("attention", "own token hidden", lambda q, k, v: _attention(q, k, v, diagonal=0), 2),
    wrong("attention", "scale of the square", lambda q, k, v: _attention(q, k, v, scale=1 / 16), 2),
    wrong("attention", "no scale", lambda q, k, v: _attention(q, k, v, scale=1.0), 2),
    wrong("attention", "last key left out", lambda q, k, v: _attention(q, k, v, keys=1), 2, 3),
    wrong("attention", "softmax in bfloat16", lambda q, k, v: _attention(q, k, v, low=torch.bfloat16), 2,
          dtypes=FLOAT32),
    wrong("attention", "heads of the keys rolled", _heads(lambda k: k.roll(1, 1)), 2),
    wrong("attention", "mean of the values", lambda q, k, v: v.cumsum(2) / torch.arange(1, v.shape[2] + 1,
          dtype=v.dtype)[:, None], 1, 2),
    wrong("attention", "last query not written", lambda q, k, v: attention(q, k, v) * _last_lost(q, 2), 2, 3),
    wrong("attention", "key gradient without its last row",
          _heads(lambda k: gradient_times(k, _last_lost(k, 2, 4))), 2, 3, trains=True),
    wrong("attention", "value gradient lost", lambda q, k, v: attention(q, k, v.detach()), 1, trains=True),
    wrong("add_and_norm", "residual not returned", lambda x, r, w: (add_and_norm(x, r, w)[0], r.clone()), 1, 2),
    wrong("add_and_norm", "outputs swapped", lambda x, r, w: add_and_norm(x, r, w)[::-1], 2),
    wrong("add_and_norm", "norm of the input alone",
          lambda x, r, w: (add_and_norm(x, r * 0, w)[0], x + r), 2),
    wrong("add_and_norm", "gradient of the sum lost",
          lambda x, r, w: (add_and_norm(x, r, w)[0], gradient_times(x + r, 0.0)), 2, trains=True),
)  # fmt: skip

MORE: tuple[Wrong, ...] = (*LAYERS, *ELEMENTWISE, *REDUCTIONS, *ATTENTION)
