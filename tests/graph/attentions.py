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

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        width, self.heads, longest = SIZES
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attn_dropout = nn.Dropout(p)
        self.register_buffer("bias", torch.ones(longest, longest).tril().view(1, 1, longest, longest))

    def forward(self, x: Tensor) -> Any:
        """(batch, n, width) to itself."""
        b, t, c = x.size()
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in self.parts(x))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))  # type: ignore[index]
        att = self.attn_dropout(F.softmax(att, dim=-1))
        y = att @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))

    def parts(self, x: Tensor) -> Any:
        """Queries, keys and values."""
        q, k, v = self.c_attn(x).split(SIZES.width, dim=2)
        return q, k, v
