"""Attention as models write it out, each in another form."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Sizes(NamedTuple):
    """Of the attentions of this file."""

    width: int
    heads: int
    longest: int


SIZES = Sizes(width=32, heads=4, longest=16)


class NanoAttention(nn.Module):
    """nanoGPT's without its flash path: a triangle of ones that is cut to the length, filled, a dropout."""

    bias: Tensor

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        width, self.heads, longest = SIZES
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attn_dropout: Any = nn.Dropout(p)
        self.register_buffer("bias", torch.ones(longest, longest).tril().view(1, 1, longest, longest))

    def forward(self, x: Tensor) -> Any:
        """(batch, n, width) to itself."""
        b, t, c = x.size()
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in self.parts(x))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        att = self.attn_dropout(F.softmax(att, dim=-1))
        y = att @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))

    def parts(self, x: Tensor) -> Any:
        """Queries, keys and values."""
        q, k, v = self.c_attn(x).split(SIZES.width, dim=2)
        return q, k, v


class _OfHeads(NanoAttention):
    """The same parts; what is done with the scores differs."""

    def forward(self, x: Tensor) -> Any:
        """(batch, n, width) to itself."""
        b, t, c = x.size()
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in self.parts(x))
        return self.c_proj(self.attended(q, k, v).transpose(1, 2).reshape(b, t, c))

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(batch, heads, n, width of a head), three times, to one."""
        raise NotImplementedError


class ScaledBefore(_OfHeads):
    """Queries are divided before the product; no mask."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As the base."""
        return torch.softmax(torch.matmul(q / math.sqrt(q.shape[-1]), k.mT), -1) @ v


class BertLike(_OfHeads):
    """Divided by a constant, a mask added, a layer for the softmax, a dropout, a permuted output."""

    extended: Tensor

    def __init__(self, p: float = 0.0) -> None:
        super().__init__(p)
        self.soft: Any = nn.Softmax(dim=-1)
        self.register_buffer("extended", torch.zeros(1, 1, 1, 16))
        self.extended[..., -3:] = torch.finfo(torch.float32).min

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As the base."""
        scores = torch.matmul(q, k.transpose(-1, -2)) / 2.0
        scores = scores + self.extended[..., 16 - k.shape[-2] :]
        return torch.matmul(self.attn_dropout(self.soft(scores)), v)


class Exact(_OfHeads):
    """The softmax in float32 and cast back, a scale of its own, a mask by condition, a functional dropout."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As the base."""
        n = q.shape[-2]
        scores = (0.3 * (q @ k.mT)).where(self.bias[:, :, :n, :n].bool(), torch.finfo(torch.float32).min)
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        return F.dropout(weights, 0.1, training=False) @ v


class Unseen(_OfHeads):
    """A mask of what is not seen, as bools, one head after the other in the batch (three dimensions)."""

    mask: Tensor

    def __init__(self, p: float = 0.0) -> None:
        super().__init__(p)
        self.register_buffer("mask", torch.ones(16, 16).triu(1))

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As the base."""
        n = q.size(-2)
        of_three = (y.flatten(0, 1) for y in (q, k, v))
        q3, k3, v3 = of_three
        scores = torch.bmm(q3, k3.transpose(1, 2)).mul(8**-0.5)
        scores = scores.masked_fill(self.mask.bool()[:n, :n], -torch.inf)
        return torch.bmm(torch.softmax(scores, -1), v3).view(q.shape)


class Window(_OfHeads):
    """A buffer that is no triangle: the last four keys."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__(p)
        self.bias = self.bias.triu(-3)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As the base."""
        n = q.size(-2)
        scores = (q @ k.mT * 8**-0.5).masked_fill(~self.bias.bool()[:, :, :n, :n], float("-inf"))
        return F.softmax(scores, -1) @ v


class Returning(_OfHeads):
    """Gives its weights to whoever asks, as models of transformers do."""

    def forward(self, x: Tensor) -> Any:
        """(batch, n, width) to itself, and the weights."""
        b, t, c = x.size()
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in self.parts(x))
        weights = torch.softmax(q @ k.mT, -1)
        return (weights @ v).transpose(1, 2).reshape(b, t, c), weights


class Twice(_OfHeads):
    """Two softmaxes after each other."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As the base."""
        return torch.softmax(torch.softmax(q @ k.mT, -1), -1) @ v


class OverQueries(_OfHeads):
    """The softmax over the other dimension."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As the base."""
        return torch.softmax(q @ k.mT, -2) @ v


class Late(_OfHeads):
    """Weights that are masked after the softmax, and a factor after the mask: attention, and no kernel's."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As the base."""
        n = q.size(-2)
        return (torch.softmax(q @ k.mT, -1) * self.bias[:, :, :n, :n]) @ v


class Block(nn.Module):
    """One attention, and a sum whose norm is no layer of the block."""

    def __init__(self, kind: type[NanoAttention], p: float = 0.0) -> None:
        super().__init__()
        self.mix, self.rest = kind(p), nn.Sequential(nn.Linear(SIZES.width, SIZES.width))

    def forward(self, x: Tensor) -> Any:
        """(batch, n, width) to itself."""
        return self.rest(x + self.mix(x))


def model_of(kind: type[NanoAttention], p: float = 0.0) -> nn.Sequential:
    """Two blocks of it."""
    torch.manual_seed(0)
    return nn.Sequential(Block(kind, p), Block(kind, p))
