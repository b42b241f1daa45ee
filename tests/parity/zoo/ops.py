"""Originals with inputs for them: what the zoo's right and wrong implementations are held against. Small tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.gemma3.configuration_gemma3 import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP, Gemma3RMSNorm
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm, apply_rotary_pos_emb

from twinkle_tune.call.arguments import Call, snapshot, vary

# T tokens, D width, I inner width, H heads, V vocabulary
T, D, INNER, HEADS, VOCABULARY = 48, 96, 160, 4, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """An original with inputs for it. ``make`` gives the module (or None) and the call's arguments."""

    original: Callable[..., Any]
    make: Callable[[torch.dtype, bool], tuple[nn.Module | None, tuple[Any, ...]]]


def normal(*shape: int, dtype: torch.dtype, grad: bool = False, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Random values that do not depend on the order in which tests run."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    return values.to(dtype).requires_grad_(grad)


def calls_like(args: tuple[Any, ...]) -> list[Call]:
    """The inputs that a contest would try: as captured, two seeds, outlier channels, tiny values."""
    first = snapshot(args, {})
    return [
        first,
        vary(first, seed=1),
        vary(first, seed=2),
        vary(first, seed=3, outliers=True),
        vary(first, seed=4, scale=1e-3),
    ]


def hidden(dtype: torch.dtype, grad: bool) -> Tensor:
    return normal(2, T // 2, D, dtype=dtype, grad=grad)


def off_centre(dtype: torch.dtype, grad: bool) -> Tensor:
    return (hidden(dtype, False) + 1.5).requires_grad_(grad)


def seeded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with random weights that every run gives alike."""
    for number, parameter in enumerate(module.parameters()):
        if parameter.dim() > 1:
            parameter.data = normal(*parameter.shape, dtype=dtype, seed=number + 10, scale=parameter.shape[1] ** -0.5)
    return module.to(dtype)


def _norm(kind: Callable[[], nn.Module]) -> Callable[[torch.dtype, bool], tuple[nn.Module, tuple[Any, ...]]]:
    return lambda dtype, grad: (seeded(kind(), dtype), (hidden(dtype, grad),))


def rotary_inputs(dtype: torch.dtype, grad: bool) -> tuple[None, tuple[Any, ...]]:
    head = 16
    angles = torch.arange(T)[:, None] * 100.0 ** -(torch.arange(head // 2) / (head // 2))
    angles = torch.cat([angles, angles], dim=-1)[None]
    query = normal(1, T, HEADS, head, dtype=dtype, grad=grad).transpose(1, 2)
    key = normal(1, T, 2, head, dtype=dtype, grad=grad, seed=1).transpose(1, 2)
    return None, (query, key, angles.cos().to(dtype), angles.sin().to(dtype))


def labels() -> Tensor:
    values = torch.randint(VOCABULARY, (T,), generator=torch.Generator().manual_seed(5))
    values[::7] = -100
    return values


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """As transformers' causal loss: in float32 whatever the logits are."""
    return F.cross_entropy(logits.float(), target, ignore_index=-100)


def softmax(x: Tensor) -> Tensor:
    return F.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def gelu_erf(x: Tensor) -> Tensor:
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal, as transformers' eager attention: scores in the run dtype, softmax in float32."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    shares = F.softmax(scores.masked_fill(later, float("-inf")), dim=-1, dtype=torch.float32)
    return shares.to(q.dtype) @ v


def attention_inputs(dtype: torch.dtype, grad: bool) -> tuple[None, tuple[Any, ...]]:
    return None, tuple(normal(2, HEADS, 24, 16, dtype=dtype, grad=grad, seed=seed) for seed in range(3))


def add_and_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The sum, and its RMSNorm: two outputs, the second made of the first."""
    total = x + residual
    wide = total.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    return weight * (wide * scale).to(x.dtype), total


def add_and_norm_inputs(dtype: torch.dtype, grad: bool) -> tuple[None, tuple[Any, ...]]:
    weight = (1 + normal(D, dtype=torch.float32, seed=3, scale=0.2)).to(dtype).requires_grad_(grad)
    return None, (hidden(dtype, grad), normal(2, T // 2, D, dtype=dtype, grad=grad, seed=1), weight)


_QWEN = Qwen3Config(hidden_size=D, intermediate_size=INNER)
_GEMMA = Gemma3TextConfig(hidden_size=D, intermediate_size=INNER)

OPS = {
    "rms_norm": Op(original=Qwen3RMSNorm.forward, make=_norm(lambda: Qwen3RMSNorm(D, eps=1e-6))),
    "gemma_norm": Op(original=Gemma3RMSNorm.forward, make=_norm(lambda: Gemma3RMSNorm(D, eps=1e-6))),
    "layer_norm": Op(
        original=nn.LayerNorm.forward,
        # Off centre: around zero a wrong mean is below the noise of half precision.
        make=lambda dtype, grad: (seeded(nn.LayerNorm(D), dtype), (off_centre(dtype, grad),)),
    ),
    "linear": Op(original=nn.Linear.forward, make=_norm(lambda: nn.Linear(D, INNER))),
    "mlp": Op(original=Qwen3MLP.forward, make=_norm(lambda: Qwen3MLP(_QWEN))),
    "gemma_mlp": Op(original=Gemma3MLP.forward, make=_norm(lambda: Gemma3MLP(_GEMMA))),
    "rotary": Op(original=apply_rotary_pos_emb, make=rotary_inputs),
    "softmax": Op(original=softmax, make=lambda dtype, grad: (None, (normal(T, D, dtype=dtype, grad=grad),))),
    "silu_mul": Op(
        original=silu_mul,
        make=lambda dtype, grad: (
            None,
            (normal(T, D, dtype=dtype, grad=grad), normal(T, D, dtype=dtype, grad=grad, seed=1)),
        ),
    ),
    "gelu": Op(original=gelu_erf, make=lambda dtype, grad: (None, (normal(T, D, dtype=dtype, grad=grad),))),
    "gelu_tanh": Op(original=gelu_tanh, make=lambda dtype, grad: (None, (normal(T, D, dtype=dtype, grad=grad),))),
    "attention": Op(original=attention, make=attention_inputs),
    "add_and_norm": Op(original=add_and_norm, make=add_and_norm_inputs),
    "cross_entropy": Op(
        original=cross_entropy,
        make=lambda dtype, grad: (None, (normal(T, VOCABULARY, dtype=dtype, grad=grad), labels())),
    ),
}
