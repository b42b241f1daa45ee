"""Rotary position embedding: query and key are turned in one launch, cos and sin loaded once for all heads of a token.

Shapes: B sequences, T tokens, H heads (of the query or of the key), D width of a head, P pairs that are turned.
    q, k (B, H, T, D) in any layout with adjacent columns; cos, sin (B, T, 2P), column by column as the head's.
    A program has t tokens of one sequence: tiles of t x h x p pairs, one for each h heads.

With a pair's columns a, b (first and second half, or neighbours) and cos, sin at those columns:

    forward     a' = a cos_a - b sin_a      b' = b cos_b + a sin_b
    backward    da = a' cos_a + b' sin_b    db = b' cos_b - a' sin_a

so backward is forward with sin_a and sin_b swapped and negated: a turn the other way.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_pairs(row_th1, inside_th1, P: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK_P: tl.constexpr):
    """The a and b of each pair, in float32, from pointers to the first column of each row."""
    if INTERLEAVED:
        # One load of adjacent columns, taken apart in registers: every byte of a cache line is asked for once.
        column = tl.arange(0, 2 * BLOCK_P)[None, None, :]
        both = tl.load(row_th1 + column, mask=inside_th1 & (column < 2 * P), other=0.0).to(tl.float32)
        a, b = tl.split(tl.reshape(both, [both.shape[0], both.shape[1], BLOCK_P, 2]))
    else:
        pair = tl.arange(0, BLOCK_P)[None, None, :]
        inside = inside_th1 & (pair < P)
        a = tl.load(row_th1 + pair, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(row_th1 + P + pair, mask=inside, other=0.0).to(tl.float32)
    return a, b


@triton.jit
def store_pairs(row_th1, inside_th1, a, b, P: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK_P: tl.constexpr):
    """The way back of :func:`load_pairs`."""
    dtype = row_th1.dtype.element_ty
    if INTERLEAVED:
        column = tl.arange(0, 2 * BLOCK_P)[None, None, :]
        both = tl.reshape(tl.join(a, b), [a.shape[0], a.shape[1], 2 * BLOCK_P])
        tl.store(row_th1 + column, both.to(dtype), mask=inside_th1 & (column < 2 * P))
    else:
        pair = tl.arange(0, BLOCK_P)[None, None, :]
        inside = inside_th1 & (pair < P)
        tl.store(row_th1 + pair, a.to(dtype), mask=inside)
        tl.store(row_th1 + P + pair, b.to(dtype), mask=inside)


@triton.jit
def turn_heads(
    x,  # of this sequence
    out,
    token_t11,  # int64, as every index that is multiplied with a stride: tensors may have over 2**31 elements
    tokens,
    heads,
    x_h,
    x_t,
    out_h,
    out_t,
    cos_a,
    cos_b,
    sin_a,
    sin_b,
    D: tl.constexpr,
    P: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_REST: tl.constexpr,
):
    """All heads of the program's tokens, BLOCK_H at a time."""
    for first in range(0, heads, BLOCK_H):
        head = first + tl.arange(0, BLOCK_H)[None, :, None]
        inside = (token_t11 < tokens) & (head < heads)
        head = head.to(tl.int64)
        row, row_out = x + token_t11 * x_t + head * x_h, out + token_t11 * out_t + head * out_h
        a, b = load_pairs(row, inside, P, INTERLEAVED, BLOCK_P)
        turned_a, turned_b = a * cos_a - b * sin_a, b * cos_b + a * sin_b
        store_pairs(row_out, inside, turned_a, turned_b, P, INTERLEAVED, BLOCK_P)
        if 2 * P < D:  # what is not turned is copied
            column = 2 * P + tl.arange(0, BLOCK_REST)[None, None, :]
            rest = tl.load(row + column, mask=inside & (column < D))
            tl.store(row_out + column, rest, mask=inside & (column < D))


@triton.jit
def turn_kernel(
    q,
    k,
    q_out,
    k_out,
    cos,
    sin,
    tokens,
    q_heads,
    k_heads,
    # Strides, in elements, by the dimension's letter.
    q_b,
    q_h,
    q_t,
    k_b,
    k_h,
    k_t,
    q_out_b,
    q_out_h,
    q_out_t,
    k_out_b,
    k_out_h,
    k_out_t,
    cos_b,
    cos_t,
    sin_b,
    sin_t,
    D: tl.constexpr,
    P: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BACKWARD: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_REST: tl.constexpr,
):
    """One program for each BLOCK_T tokens of a sequence: a grid of B * ceil(T / BLOCK_T)."""
    blocks = tl.cdiv(tokens, BLOCK_T)
    sequence = (tl.program_id(0) // blocks).to(tl.int64)
    token = ((tl.program_id(0) % blocks) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None, None]).to(tl.int64)

    inside = token < tokens
    cos_1, cos_2 = load_pairs(cos + sequence * cos_b + token * cos_t, inside, P, INTERLEAVED, BLOCK_P)
    sin_1, sin_2 = load_pairs(sin + sequence * sin_b + token * sin_t, inside, P, INTERLEAVED, BLOCK_P)
    if BACKWARD:
        sin_1, sin_2 = -sin_2, -sin_1

    turn_heads(
        q + sequence * q_b, q_out + sequence * q_out_b, token, tokens, q_heads, q_h, q_t, q_out_h, q_out_t,
        cos_1, cos_2, sin_1, sin_2, D, P, INTERLEAVED, BLOCK_H, BLOCK_P, BLOCK_REST,
    )  # fmt: skip
    turn_heads(
        k + sequence * k_b, k_out + sequence * k_out_b, token, tokens, k_heads, k_h, k_t, k_out_h, k_out_t,
        cos_1, cos_2, sin_1, sin_2, D, P, INTERLEAVED, BLOCK_H, BLOCK_P, BLOCK_REST,
    )  # fmt: skip
