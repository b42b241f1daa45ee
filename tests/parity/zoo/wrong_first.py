"""Wrong implementations, each with the mode in which it is wrong and the points that may refuse it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.zoo.right import fused_rms_norm
from tests.parity.zoo.wrong import ALL, Wrong


def _rms(x: Tensor, weight: Tensor, eps: float, count: int | None = None, skip: int = 0) -> Tensor:
    wide = x.float()
    sum_of_squares = wide[..., : wide.shape[-1] - skip].square().sum(-1, keepdim=True)
    return weight * (wide * torch.rsqrt(sum_of_squares / (count or x.shape[-1]) + eps)).to(x.dtype)


def _spoiled(change: Callable[[Tensor], Tensor | None]) -> Callable[[Any, Tensor], Tensor]:
    """The right norm, whose result ``change`` then edits in place or replaces."""

    def forward(self: Any, x: Tensor) -> Any:
        result = fused_rms_norm(self, x).clone()
        changed = change(result)
        return result if changed is None else changed

    return forward


def _last_row_lost(y: Tensor) -> None:
    y[-1, -1] = 0


def _last_row_repeats(y: Tensor) -> None:
    y[-1, -1] = y[-1, -2].clone()


def _last_column_lost(y: Tensor) -> None:
    y[..., -1] = 0


def _tail_unwritten(y: Tensor) -> None:
    y[-1, -1, -8:] = float("nan")


def _one_element_off(y: Tensor) -> None:
    y[0, 3, 5] += 0.5


class _NormWithoutWeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _rms(x, weight, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(_rms(leaf, weight.detach(), ctx.eps), leaf, gradients[0])
        return gradient, torch.zeros_like(weight), None


class _ScribblingNorm(_NormWithoutWeightGradient):
    """Right, but it uses the incoming gradient's memory for its own ends."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        with torch.enable_grad():
            leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
            found = torch.autograd.grad(_rms(*leaves, ctx.eps), leaves, gradients[0].clone())
        gradients[0].mul_(2)
        return found[0], found[1], None


def _apply(function: Any, x: Tensor, weight: Tensor) -> Any:
    return function.apply(x, weight, 1e-6)


def _norm_ignores_incoming(self: Any, x: Tensor) -> Any:
    right = fused_rms_norm(self, x)
    right.register_hook(torch.ones_like)
    return right


def _norm_changes_input(self: Any, x: Tensor) -> Any:
    right = fused_rms_norm(self, x)
    x.detach().mul_(2)
    return right


def _norm_changes_weight(self: Any, x: Tensor) -> Any:
    right = fused_rms_norm(self, x)
    self.weight.detach().add_(1)
    return right


def _norm_in_bfloat16(self: Any, x: Tensor) -> Any:
    low = x.bfloat16()
    scale = torch.rsqrt(low.square().mean(-1, keepdim=True) + self.variance_epsilon)
    return (low * scale * self.weight.bfloat16()).to(x.dtype)


def _mean_off_by_one(self: Any, x: Tensor) -> Any:
    centred = x.float() - x.float().sum(-1, keepdim=True) / (x.shape[-1] - 1)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps)
    return (centred * scale * self.weight + self.bias).to(x.dtype)


def _unbiased_variance(self: Any, x: Tensor) -> Any:
    wide = x.float()
    scale = torch.rsqrt(wide.var(-1, keepdim=True) + self.eps)
    return ((wide - wide.mean(-1, keepdim=True)) * scale * self.weight + self.bias).to(x.dtype)


def _no_bias(self: Any, x: Tensor) -> Any:
    return F.layer_norm(x, (x.shape[-1],), self.weight, None, self.eps)


def _linear_short(self: Any, x: Tensor) -> Any:
    return F.linear(x[..., :-1], self.weight[:, :-1], self.bias)


def _linear_bfloat16(self: Any, x: Tensor) -> Any:
    return F.linear(x.bfloat16(), self.weight.bfloat16(), self.bias.bfloat16()).to(x.dtype)


def _mlp(activation: Callable[[Tensor], Tensor], *, swapped: bool = False) -> Callable[[Any, Tensor], Tensor]:
    def forward(self: Any, x: Tensor) -> Any:
        gate, up = self.gate_proj(x), self.up_proj(x)
        gate, up = (up, gate) if swapped else (gate, up)
        product: Tensor = self.down_proj(activation(gate) * up)
        return product

    return forward


def _rotary(*, sign: float = 1.0, key: bool = True, head: bool = True) -> Callable[..., tuple[Tensor, Tensor]]:
    def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * cos[:, None] + sign * torch.cat([-b, a], dim=-1) * sin[:, None]

    def forward(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        turned = turn(q, cos, sin)
        if not head:
            turned = torch.cat([turned[:, :-1], q[:, -1:]], dim=1)
        return turned, turn(k, cos, sin) if key else k.clone()

    return forward


def _softmax_unshifted_sum(x: Tensor) -> Tensor:
    """The maximum counted twice in the sum."""
    powers = torch.exp(x.float() - x.float().amax(-1, keepdim=True))
    return (powers / (powers.sum(-1, keepdim=True) + powers.amax(-1, keepdim=True) * 0.01)).to(x.dtype)


def _cross_entropy(reduce: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def forward(logits: Tensor, target: Tensor) -> Tensor:
        each = F.cross_entropy(logits.float(), target, ignore_index=-100, reduction="none")
        return reduce(each, target)

    return forward


def _detached(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up.detach()


def _wrong(*, call: Callable[..., Any], dtypes: tuple[torch.dtype, ...] = ALL, **more: Any) -> Wrong:
    return Wrong(make=lambda: call, dtypes=dtypes, **more)


FIRST = (
    _wrong(name="eps 1e-5", op="rms_norm", call=lambda s, x: _rms(x, s.weight, 1e-5), points=(2,)),
    _wrong(name="no eps", op="rms_norm", call=lambda s, x: _rms(x, s.weight, 0.0), points=(2,)),
    _wrong(name="eps outside the root", op="rms_norm", points=(2,), call=lambda s, x: s.weight * (
        x.float() / (x.float().square().mean(-1, keepdim=True).sqrt() + 1e-6)).to(x.dtype)),
    _wrong(name="weight ignored", op="rms_norm", points=(2,),
          call=lambda s, x: _rms(x, torch.ones_like(s.weight), 1e-6)),
    _wrong(name="weight plus one", op="rms_norm", call=lambda s, x: _rms(x, 1 + s.weight, 1e-6), points=(2,)),
    _wrong(name="weight without one", op="gemma_norm", call=lambda s, x: _rms(x, s.weight, 1e-6), points=(2,)),
    _wrong(name="mean over one less", op="rms_norm", points=(2,),
          call=lambda s, x: _rms(x, s.weight, 1e-6, count=x.shape[-1] - 1)),
    _wrong(name="last column not summed", op="rms_norm", points=(2,),
          call=lambda s, x: _rms(x, s.weight, 1e-6, skip=1)),
    _wrong(name="computed in bfloat16", op="rms_norm", points=(2,), dtypes=(torch.float32,),
          call=_norm_in_bfloat16),
    _wrong(name="last row lost", op="rms_norm", call=_spoiled(_last_row_lost), points=(2, 3)),
    _wrong(name="last row repeats", op="rms_norm", call=_spoiled(_last_row_repeats), points=(2, 3)),
    _wrong(name="last column lost", op="rms_norm", call=_spoiled(_last_column_lost), points=(2, 3)),
    _wrong(name="one element off", op="rms_norm", call=_spoiled(_one_element_off), points=(2, 3, 4)),
    _wrong(name="tail unwritten", op="rms_norm", call=_spoiled(_tail_unwritten), points=(1,)),
    _wrong(name="zeros", op="rms_norm", call=lambda s, x: torch.zeros_like(x), points=(2,)),
    _wrong(name="constant", op="rms_norm", call=lambda s, x: torch.full_like(x, 0.5), points=(2,)),
    _wrong(name="input returned", op="rms_norm", call=lambda s, x: x.clone(), points=(2,)),
    _wrong(name="other dtype", op="rms_norm", call=lambda s, x: fused_rms_norm(s, x).double(), points=(1,)),
    _wrong(name="other shape", op="rms_norm", points=(1,),
          call=lambda s, x: fused_rms_norm(s, x).flatten(0, 1)),
    _wrong(name="in a tuple", op="rms_norm", call=lambda s, x: (fused_rms_norm(s, x),), points=(1,)),
    _wrong(name="nothing returned", op="rms_norm", call=lambda s, x: None, points=(1,)),
    _wrong(name="input changed", op="rms_norm", call=_norm_changes_input, points=(1,)),
    _wrong(name="weight changed", op="rms_norm", call=_norm_changes_weight, points=(1,)),
    _wrong(name="no gradient at all", op="rms_norm", points=(1,), trains=True,
          call=lambda s, x: fused_rms_norm(s, x).detach()),
    _wrong(name="no weight gradient", op="rms_norm", points=(1,), trains=True,
          call=lambda s, x: F.rms_norm(x, (x.shape[-1],), s.weight.detach(), 1e-6)),
    _wrong(name="weight gradient zero", op="rms_norm", points=(2,), trains=True,
          call=lambda s, x: _apply(_NormWithoutWeightGradient, x, s.weight)),
    _wrong(name="incoming gradient ignored", op="rms_norm", points=(2,), trains=True,
          call=_norm_ignores_incoming),
    _wrong(name="incoming gradient changed", op="rms_norm", points=(1,), trains=True,
          call=lambda s, x: _apply(_ScribblingNorm, x, s.weight)),
    _wrong(name="mean over one less", op="layer_norm", call=_mean_off_by_one, points=(2,)),
    _wrong(name="unbiased variance", op="layer_norm", call=_unbiased_variance, points=(2,)),
    _wrong(name="bias ignored", op="layer_norm", call=_no_bias, points=(2,)),
    _wrong(name="sum one short", op="linear", call=_linear_short, points=(2,)),
    _wrong(name="computed in bfloat16", op="linear", points=(2,), dtypes=(torch.float32,),
          call=_linear_bfloat16),
    _wrong(name="gate and up swapped", op="mlp", call=_mlp(F.silu, swapped=True), points=(2,)),
    _wrong(name="gelu for silu", op="mlp", call=_mlp(F.gelu), points=(2,)),
    _wrong(name="erf for tanh", op="gemma_mlp", call=_mlp(F.gelu), points=(2, 3, 4), dtypes=(torch.float32,)),
    _wrong(name="turned the other way", op="rotary", call=_rotary(sign=-1.0), points=(2,)),
    _wrong(name="key not turned", op="rotary", call=_rotary(key=False), points=(2,)),
    _wrong(name="last head not turned", op="rotary", call=_rotary(head=False), points=(2, 3)),
    _wrong(name="maximum counted twice", op="softmax", call=_softmax_unshifted_sum, points=(2,)),
    _wrong(name="other dimension", op="softmax", call=lambda x: F.softmax(x, dim=0), points=(2,)),
    _wrong(name="up detached", op="silu_mul", call=_detached, points=(1,), trains=True),
    _wrong(name="sigmoid alone", op="silu_mul", call=lambda g, u: torch.sigmoid(g) * u, points=(2,)),
    _wrong(name="tanh for erf", op="gelu", points=(2, 3, 4), dtypes=(torch.float32,),
          call=lambda x: F.gelu(x, approximate="tanh")),
    _wrong(name="quick gelu", op="gelu", call=lambda x: x * torch.sigmoid(1.702 * x), points=(2,)),
    _wrong(name="ignored tokens counted", op="cross_entropy", points=(2,),
          call=_cross_entropy(lambda each, target: each.sum() / target.numel())),
    _wrong(name="summed", op="cross_entropy", call=_cross_entropy(lambda each, _: each.sum()), points=(2,)),
    _wrong(name="last token lost", op="cross_entropy", points=(2,),
          call=_cross_entropy(lambda each, target: each[:-1].sum() / (target[:-1] != -100).sum())),
)  # fmt: skip
