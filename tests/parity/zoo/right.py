"""Right implementations of the zoo's ops: other formulas, other orders of additions, other fusions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm


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


class _NormBackwardByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        g, normed = gradients[0].float(), x.float() * scale
        inner = g * weight.float()
        to_x = scale * (inner - normed * (inner * normed).mean(-1, keepdim=True))
        to_weight = (g * normed).flatten(0, -2).sum(0)
        return to_x.to(x.dtype), to_weight.to(weight.dtype), None


def rms_norm_backward_by_hand(self: Any, x: Tensor) -> Any:
    return _NormBackwardByHand.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]


def rms_norm_float64(self: Any, x: Tensor) -> Any:
    return F.rms_norm(x.double(), (x.shape[-1],), self.weight.double(), self.variance_epsilon).to(x.dtype)


def rms_norm_by_vector_norm(self: Any, x: Tensor) -> Any:
    wide = x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return self.weight * (wide / torch.sqrt(length * length / x.shape[-1] + self.variance_epsilon)).to(x.dtype)


def rms_norm_of_rows(self: Any, x: Tensor) -> Any:
    """A few rows after the other, as a kernel's programs do; the weight's gradient is added up in float32."""
    weight = self.weight.float()
    rows = torch.chunk(x.reshape(-1, x.shape[-1]).float(), 10)
    return (
        torch.cat([F.rms_norm(r, (x.shape[-1],), weight, self.variance_epsilon) for r in rows])
        .view(x.shape)
        .to(x.dtype)
    )


def gemma_norm_by_hand(self: Any, x: Tensor) -> Any:
    wide = x.float()
    normed = wide / torch.sqrt(wide.square().mean(-1, keepdim=True) + self.eps)
    return (normed + normed * self.weight.float()).to(x.dtype)


def layer_norm_float32(self: Any, x: Tensor) -> Any:
    return F.layer_norm(x.float(), (x.shape[-1],), self.weight.float(), self.bias.float(), self.eps).to(x.dtype)


def layer_norm_native(self: Any, x: Tensor) -> Any:
    return torch.native_layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)[0]


def layer_norm_one_pass(self: Any, x: Tensor) -> Any:
    """Variance and mean from one pass, in float32."""
    variance, mean = torch.var_mean(x.float(), dim=-1, correction=0, keepdim=True)
    scale = torch.rsqrt(variance + self.eps) * self.weight.float()
    return (x.float() * scale + (self.bias.float() - mean * scale)).to(x.dtype)


def linear_by_einsum(self: Any, x: Tensor) -> Any:
    return (torch.einsum("...k,nk->...n", x.float(), self.weight.float()) + self.bias.float()).to(x.dtype)


def linear_by_addmm(self: Any, x: Tensor) -> Any:
    return torch.addmm(self.bias, x.flatten(0, -2), self.weight.t()).view(*x.shape[:-1], -1)


def linear_split_k(self: Any, x: Tensor) -> Any:
    """Six parts of the inner dimension, added in float32 in another order."""
    parts = zip(x.float().chunk(6, dim=-1), self.weight.float().chunk(6, dim=-1), strict=True)
    return (sum(F.linear(a, b) for a, b in list(parts)[::-1]) + self.bias.float()).to(x.dtype)


def linear_float64(self: Any, x: Tensor) -> Any:
    return F.linear(x.double(), self.weight.double(), self.bias.double()).to(x.dtype)


def mlp_of_few_tokens(self: Any, x: Tensor) -> Any:
    """Chunks of tokens; the weights' gradients are added up in float32."""
    gate, up, down = (each.weight.float() for each in (self.gate_proj, self.up_proj, self.down_proj))
    rows = torch.chunk(x.reshape(-1, x.shape[-1]).float(), 7)
    parts = [F.linear(F.silu(F.linear(r, gate)) * F.linear(r, up), down) for r in rows]
    return torch.cat(parts).view(x.shape).to(x.dtype)


def mlp_split_over_inner(self: Any, x: Tensor) -> Any:
    """The down projection added up in float32 over parts of the inner width."""
    inner = F.silu(self.gate_proj(x)) * self.up_proj(x)
    parts = zip(inner.float().chunk(4, dim=-1), self.down_proj.weight.float().chunk(4, dim=-1), strict=True)
    return sum(F.linear(a, b) for a, b in parts).to(x.dtype)  # type: ignore[union-attr]


def gemma_mlp_joined(self: Any, x: Tensor) -> Any:
    gate, up = F.linear(x, torch.cat([self.gate_proj.weight, self.up_proj.weight])).chunk(2, dim=-1)
    return F.linear(F.gelu(gate, approximate="tanh") * up, self.down_proj.weight)


def rotary_complex(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """As a product of complex numbers."""
    half = cos.shape[-1] // 2
    turn = torch.complex(cos[:, None, :, :half].float(), sin[:, None, :, :half].float())

    def turned(x: Tensor) -> Tensor:
        a, b = x.float().chunk(2, dim=-1)
        product = torch.complex(a, b) * turn
        return torch.cat([product.real, product.imag], dim=-1).to(x.dtype)

    return turned(q), turned(k)


def rotary_joined(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Query and key in one piece of memory."""
    both = torch.cat([q, k], dim=1)
    a, b = both.chunk(2, dim=-1)
    turned = both * cos[:, None] + torch.cat([-b, a], dim=-1) * sin[:, None]
    return turned[:, : q.shape[1]], turned[:, q.shape[1] :]


def softmax_online(x: Tensor) -> Tensor:
    """One pass over blocks of columns, rescaled whenever a larger maximum comes."""
    wide = x.float()
    top = torch.full((*x.shape[:-1], 1), float("-inf"))
    total = torch.zeros_like(top)
    for block in wide.chunk(6, dim=-1):
        higher = torch.maximum(top, block.detach().amax(-1, keepdim=True))
        total = total * torch.exp(top - higher) + torch.exp(block - higher).sum(-1, keepdim=True)
        top = higher
    return (torch.exp(wide - top) / total).to(x.dtype)


def softmax_float64(x: Tensor) -> Tensor:
    return F.softmax(x.double(), dim=-1).to(x.dtype)


def softmax_powers_of_two(x: Tensor) -> Tensor:
    wide = x.float() * 1.4426950408889634
    powers = torch.exp2(wide - wide.detach().amax(-1, keepdim=True))
    return (powers / powers.sum(-1, keepdim=True)).to(x.dtype)


class _SiluMulByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = (t.float() for t in ctx.saved_tensors)
        g, sigmoid = gradients[0].float(), torch.sigmoid(gate)
        to_gate = g * up * (sigmoid * (1 + gate * (1 - sigmoid)))
        return to_gate.to(gradients[0].dtype), (g * gate * sigmoid).to(gradients[0].dtype)


def silu_mul_backward_by_hand(gate: Tensor, up: Tensor) -> Any:
    return _SiluMulByHand.apply(gate, up)  # type: ignore[no-untyped-call]


def silu_mul_of_rows(gate: Tensor, up: Tensor) -> Tensor:
    return torch.cat([F.silu(g) * u for g, u in zip(gate.chunk(10), up.chunk(10), strict=True)])


def gelu_by_erfc(x: Tensor) -> Tensor:
    wide = x.float()
    return (0.5 * wide * torch.erfc(-wide * 0.7071067811865476)).to(x.dtype)


def gelu_by_distribution(x: Tensor) -> Tensor:
    wide = x.float()
    result: Tensor = (wide * torch.special.ndtr(wide)).to(x.dtype)
    return result


def gelu_tanh_by_hand(x: Tensor) -> Tensor:
    wide = x.float()
    inner = 0.7978845608028654 * (wide + 0.044715 * wide * wide * wide)
    return (0.5 * wide * (1.0 + torch.tanh(inner))).to(x.dtype)


def gelu_tanh_by_sigmoid(x: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.sigmoid(1.5957691216057308 * (wide + 0.044715 * wide**3))).to(x.dtype)


def cross_entropy_in_two(logits: Tensor, target: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(logits.float(), dim=-1), target, ignore_index=-100)


def cross_entropy_by_logsumexp(logits: Tensor, target: Tensor) -> Tensor:
    wide, kept = logits.float()[target != -100], target[target != -100]
    return (torch.logsumexp(wide, -1) - wide.gather(-1, kept[:, None])[:, 0]).mean()


def cross_entropy_of_few_tokens(logits: Tensor, target: Tensor) -> Tensor:
    """Chunks of tokens, so that no second copy of all logits is made."""
    sums = [
        F.cross_entropy(few.float(), some, ignore_index=-100, reduction="sum")
        for few, some in zip(logits.chunk(5), target.chunk(5), strict=True)
    ]
    return torch.stack(sums).sum() / (target != -100).sum()


def attention_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True).to(q.dtype)


def attention_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """In half precision its backward uses the rounded output; right forward, and not in RIGHT for that."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention_online(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Blocks of keys with a running maximum, in float32."""
    wide, scale = q.float(), q.shape[-1] ** -0.5
    rows = torch.arange(q.shape[-2])[:, None]
    top = torch.full((*q.shape[:-1], 1), float("-inf"))
    total, sums = torch.zeros_like(top), torch.zeros(q.shape)
    for start in range(0, k.shape[-2], 8):
        keys, values = k[..., start : start + 8, :].float(), v[..., start : start + 8, :].float()
        later = torch.arange(start, start + keys.shape[-2]) > rows
        scores = (wide @ keys.transpose(-1, -2) * scale).masked_fill(later, float("-inf"))
        higher = torch.maximum(top, scores.detach().amax(-1, keepdim=True))
        powers, shrink = torch.exp(scores - higher), torch.exp(top - higher)
        total, sums, top = total * shrink + powers.sum(-1, keepdim=True), sums * shrink + powers @ values, higher
    return (sums / total).to(q.dtype)


def attention_scaled_before(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The scale on the query, which is exact here: it is a power of two."""
    later = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
    scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).masked_fill(later, float("-inf"))
    return F.softmax(scores.float(), dim=-1).to(q.dtype) @ v


def add_and_norm_fused(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = x + residual
    return F.rms_norm(total, (x.shape[-1],), weight, 1e-6), total


def add_and_norm_of_rows(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = x + residual
    wide = weight.float()
    parts = [F.rms_norm(rows.float(), (x.shape[-1],), wide, 1e-6) for rows in total.flatten(0, 1).chunk(6)]
    return torch.cat(parts).view(x.shape).to(x.dtype), total


RIGHT: dict[str, tuple[Callable[..., Any], ...]] = {
    "rms_norm": (
        Qwen3RMSNorm.forward,
        fused_rms_norm,
        rms_norm_float32_to_the_end,
        rms_norm_summed_in_pieces,
        rms_norm_backward_by_hand,
        rms_norm_float64,
        rms_norm_by_vector_norm,
        rms_norm_of_rows,
    ),
    "gemma_norm": (fused_gemma_norm, gemma_norm_by_hand),
    "layer_norm": (layer_norm_by_hand, layer_norm_float32, layer_norm_native, layer_norm_one_pass),
    "linear": (linear_in_blocks, linear_by_einsum, linear_by_addmm, linear_split_k, linear_float64, nn.Linear.forward),
    "mlp": (mlp_joined, mlp_float32, mlp_of_few_tokens, mlp_split_over_inner),
    "gemma_mlp": (gemma_mlp_joined,),
    "rotary": (rotary_by_halves, rotary_complex, rotary_joined),
    "softmax": (softmax_by_hand, softmax_by_log, softmax_online, softmax_float64, softmax_powers_of_two),
    "silu_mul": (silu_mul_float32, silu_mul_backward_by_hand, silu_mul_of_rows),
    "gelu": (gelu_by_erf, gelu_by_erfc, gelu_by_distribution),
    "gelu_tanh": (gelu_tanh_by_hand, gelu_tanh_by_sigmoid),
    "cross_entropy": (
        cross_entropy_by_hand,
        cross_entropy_in_two,
        cross_entropy_by_logsumexp,
        cross_entropy_of_few_tokens,
    ),
    "attention": (attention_float32, attention_online, attention_scaled_before),
    "add_and_norm": (add_and_norm_fused, add_and_norm_of_rows),
}
