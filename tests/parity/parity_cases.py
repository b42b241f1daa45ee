"""Originals, and right and wrong implementations of them, for the tests of the parity rule. Small tensors."""

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

from twinkle_tune.capture.inputs import Call, snapshot, vary

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
    "cross_entropy": Op(
        original=cross_entropy,
        make=lambda dtype, grad: (None, (normal(T, VOCABULARY, dtype=dtype, grad=grad), labels())),
    ),
}


# Right implementations.


def fused_rms_norm(self: Any, x: Tensor) -> Any:
    return F.rms_norm(x, (x.shape[-1],), self.weight, self.variance_epsilon)


def rms_norm_float32_to_the_end(self: Any, x: Tensor) -> Any:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon) * self.weight).to(x.dtype)


def rms_norm_summed_in_pieces(self: Any, x: Tensor) -> Any:
    """Another order of additions, and a square root and a division in place of rsqrt."""
    wide = x.float()
    pieces = wide.square().reshape(*x.shape[:-1], -1, 8).sum(-1).flip(-1).cumsum(-1)[..., -1:]
    return self.weight * (wide / torch.sqrt(pieces / x.shape[-1] + self.variance_epsilon)).to(x.dtype)


def fused_gemma_norm(self: Any, x: Tensor) -> Any:
    return F.rms_norm(x.float(), (x.shape[-1],), 1.0 + self.weight.float(), self.eps).to(x.dtype)


def layer_norm_by_hand(self: Any, x: Tensor) -> Any:
    wide = x.float()
    centred = wide - wide.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps)
    return (centred * scale * self.weight + self.bias).to(x.dtype)


def linear_in_blocks(self: Any, x: Tensor) -> Any:
    """Split over the inner dimension, with sums in float32."""
    half = x.shape[-1] // 2
    left = F.linear(x[..., :half].float(), self.weight[:, :half].float())
    right = F.linear(x[..., half:].float(), self.weight[:, half:].float())
    return (left + right + self.bias).to(x.dtype)


def mlp_joined(self: Any, x: Tensor) -> Any:
    """Gate and up projection as one matrix product."""
    gate, up = F.linear(x, torch.cat([self.gate_proj.weight, self.up_proj.weight])).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, self.down_proj.weight)


def mlp_float32(self: Any, x: Tensor) -> Any:
    gate = F.linear(x.float(), self.gate_proj.weight.float())
    up = F.linear(x.float(), self.up_proj.weight.float())
    return F.linear(F.silu(gate) * up, self.down_proj.weight.float()).to(x.dtype)


def rotary_by_halves(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    def turn(x: Tensor) -> Tensor:
        a, b = x.float().chunk(2, dim=-1)
        c, s = cos[:, None, :, : a.shape[-1]].float(), sin[:, None, :, : a.shape[-1]].float()
        return torch.cat([a * c - b * s, b * c + a * s], dim=-1).to(x.dtype)

    return turn(q), turn(k)


def softmax_by_hand(x: Tensor) -> Tensor:
    wide = x.float()
    powers = torch.exp(wide - wide.detach().amax(-1, keepdim=True))
    return (powers / powers.sum(-1, keepdim=True)).to(x.dtype)


def softmax_by_log(x: Tensor) -> Tensor:
    return F.log_softmax(x.float(), dim=-1).exp().to(x.dtype)


def silu_mul_float32(gate: Tensor, up: Tensor) -> Tensor:
    wide = gate.float()
    return (wide * torch.sigmoid(wide) * up.float()).to(gate.dtype)


def gelu_by_erf(x: Tensor) -> Tensor:
    wide = x.float()
    return (0.5 * wide * (1.0 + torch.erf(wide * 0.7071067811865476))).to(x.dtype)


def cross_entropy_by_hand(logits: Tensor, target: Tensor) -> Tensor:
    wide, kept = logits.float(), target != -100
    picked = wide.gather(-1, target.clamp(min=0)[:, None])[:, 0]
    top = wide.detach().amax(-1, keepdim=True)
    loss = torch.exp(wide - top).sum(-1).log() - (picked - top[:, 0])
    return (loss * kept).sum() / kept.sum()


RIGHT: dict[str, tuple[Callable[..., Any], ...]] = {
    "rms_norm": (
        Qwen3RMSNorm.forward,
        fused_rms_norm,
        rms_norm_float32_to_the_end,
        rms_norm_summed_in_pieces,
    ),
    "gemma_norm": (fused_gemma_norm,),
    "layer_norm": (layer_norm_by_hand,),
    "linear": (linear_in_blocks,),
    "mlp": (mlp_joined, mlp_float32),
    "rotary": (rotary_by_halves,),
    "softmax": (softmax_by_hand, softmax_by_log),
    "silu_mul": (silu_mul_float32,),
    "gelu": (gelu_by_erf,),
    "cross_entropy": (cross_entropy_by_hand,),
}
