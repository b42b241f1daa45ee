"""Kernels with one number a little wrong: a constant or an exponent off by some percent, wherever an op has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

OFF = (0.99, 1.01, 0.98, 1.02, 0.95, 1.05)
Make = Callable[[float], Callable[..., Any]]


def _gelu_tanh(x: Tensor, cubic: float = 1.0, root: float = 1.0, half: float = 1.0) -> Tensor:
    wide = x.float()
    inner = 0.7978845608028654 * root * (wide + 0.044715 * cubic * wide**3)
    return (0.5 * half * wide * (1 + torch.tanh(inner))).to(x.dtype)


def _gelu(x: Tensor, root: float = 1.0, half: float = 1.0) -> Tensor:
    wide = x.float()
    return (0.5 * half * wide * (1 + torch.erf(wide * 0.7071067811865476 * root))).to(x.dtype)


def _silu(x: Tensor, beta: float = 1.0, gain: float = 1.0) -> Tensor:
    wide = x.float()
    return (gain * wide * torch.sigmoid(beta * wide)).to(x.dtype)


def _rms(x: Tensor, eps: float, count: float = 1.0, power: float = 1.0) -> Tensor:
    wide = x.float()
    scale: Tensor = torch.pow(wide.square().mean(-1, keepdim=True) / count + eps, -0.5 * power)
    return wide * scale


def _layer(self: Any, x: Tensor, eps: float = 1.0, count: float = 1.0, power: float = 1.0) -> Tensor:
    centred = x.float() - x.float().mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) / count + eps * self.eps) ** (-0.5 * power)
    result: Tensor = (centred * scale * self.weight + self.bias).to(x.dtype)
    return result


def _softmax(x: Tensor, heat: float = 1.0, power: float = 1.0) -> Tensor:
    powers = torch.exp((x.float() - x.float().detach().amax(-1, keepdim=True)) / heat)
    return (powers / powers.sum(-1, keepdim=True) ** power).to(x.dtype)


def _attention(q: Tensor, k: Tensor, v: Tensor, factor: float) -> Tensor:
    return F.scaled_dot_product_attention(
        q.float(), k.float(), v.float(), is_causal=True, scale=factor * q.shape[-1] ** -0.5
    ).to(q.dtype)


def _rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, cosine: float = 1.0, sine: float = 1.0) -> Any:
    def turn(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * (cosine * cos[:, None]) + torch.cat([-b, a], dim=-1) * (sine * sin[:, None])

    return turn(q), turn(k)


def _cross_entropy(logits: Tensor, target: Tensor, heat: float = 1.0, gain: float = 1.0) -> Tensor:
    return gain * F.cross_entropy(logits.float() / heat, target, ignore_index=-100)


def _gated(act: Callable[..., Tensor], **more: float) -> Callable[..., Any]:
    return lambda self, x: self.down_proj(act(self.gate_proj(x), **more) * self.up_proj(x))


def _normed(place: str, factor: float) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor) -> Tensor:
        eps = self.variance_epsilon * (factor if place == "eps" else 1.0)
        more = {} if place == "eps" else {place: factor}
        result: Tensor = self.weight * _rms(x, eps, **more).to(x.dtype)
        return result

    return forward


def _added(place: str, factor: float) -> Callable[..., Any]:
    def call(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        more = {} if place == "eps" else {place: factor}
        normed = _rms(total, 1e-6 * (factor if place == "eps" else 1.0), **more)
        return weight * normed.to(x.dtype), total

    return call


PLACES: dict[tuple[str, str], Make] = {
    **{("gelu_tanh", p): lambda f, p=p: lambda x: _gelu_tanh(x, **{p: f}) for p in ("cubic", "root", "half")},  # type: ignore[misc]
    **{("gelu", p): lambda f, p=p: lambda x: _gelu(x, **{p: f}) for p in ("root", "half")},  # type: ignore[misc]
    **{("silu_mul", p): lambda f, p=p: lambda g, u: _silu(g, **{p: f}) * u for p in ("beta", "gain")},  # type: ignore[misc]
    **{("mlp", p): lambda f, p=p: _gated(_silu, **{p: f}) for p in ("beta", "gain")},  # type: ignore[misc]
    **{("gemma_mlp", p): lambda f, p=p: _gated(_gelu_tanh, **{p: f}) for p in ("cubic", "root", "half")},  # type: ignore[misc]
    **{("rms_norm", p): lambda f, p=p: _normed(p, f) for p in ("eps", "count", "power")},  # type: ignore[misc]
    **{("add_and_norm", p): lambda f, p=p: _added(p, f) for p in ("eps", "count", "power")},  # type: ignore[misc]
    **{("layer_norm", p): lambda f, p=p: lambda s, x: _layer(s, x, **{p: f}) for p in ("eps", "count", "power")},  # type: ignore[misc]
    **{("softmax", p): lambda f, p=p: lambda x: _softmax(x, **{p: f}) for p in ("heat", "power")},  # type: ignore[misc]
    **{("rotary", p): lambda f, p=p: lambda *args: _rotary(*args, **{p: f}) for p in ("cosine", "sine")},  # type: ignore[misc]
    **{("cross_entropy", p): lambda f, p=p: lambda x, t: _cross_entropy(x, t, **{p: f}) for p in ("heat", "gain")},  # type: ignore[misc]
    ("attention", "scale"): lambda f: lambda q, k, v: _attention(q, k, v, f),
}
"""By op and place: from the factor by which the number there is off to the kernel."""
