"""Softmax of scaled and masked rows, whole rows at once or, where they are wide, block by block of columns.

Shapes: A, B, C leading dimensions, W columns; R = A * B * C rows.
    x, mask (A, B, C, W) with any strides (0 where a mask is broadcast); y, dx (R, W) contiguous.
    A program has r rows and goes over their columns w at a time.

    forward     z = scale * x + mask (or -inf where a boolean mask is False)    y = exp(z - max z) / sum exp(z - max z)
    backward    dx = scale * y * (dy - sum(y * dy))

A row with nothing but -inf is nan, as in torch.
"""

from __future__ import annotations

import triton
import triton.language as tl

ADDED = tl.constexpr(1)
BOOLEAN = tl.constexpr(2)


@triton.jit
def row_offset(row_r1, size_b, size_c, stride_a, stride_b, stride_c):
    """Where rows begin, in elements, by the number of each in order: int64, since tensors may pass 2**31 elements."""
    a, b, c = row_r1 // (size_b * size_c), row_r1 // size_c % size_b, row_r1 % size_c
    return a.to(tl.int64) * stride_a + b.to(tl.int64) * stride_b + c.to(tl.int64) * stride_c


@triton.jit
def load_scores(x_row, mask_row, column, inside, x_w, mask_w, scale, MASK: tl.constexpr):
    """z of a block of columns, -inf outside of the row."""
    z = tl.load(x_row + column * x_w, mask=inside, other=float("-inf")).to(tl.float32)
    # Outside stays -inf whatever the scale's sign is.
    z = tl.where(inside, z * scale, float("-inf"))
    if MASK == ADDED:
        z += tl.load(mask_row + column * mask_w, mask=inside, other=0.0).to(tl.float32)
    if MASK == BOOLEAN:
        keep = tl.load(mask_row + column * mask_w, mask=inside, other=0)
        z = tl.where(keep != 0, z, float("-inf"))
    return z


@triton.jit
def fold(z, top_r1, total_r1):
    """The largest z so far, and the sum of exp(z - largest) so far, with a block more."""
    larger = tl.maximum(top_r1, tl.max(z, axis=1, keep_dims=True))
    # -inf - -inf would be nan where all so far is masked, and a later block may not be.
    shift = tl.where(larger == float("-inf"), 0.0, larger)
    total = total_r1 * tl.exp(top_r1 - shift) + tl.sum(tl.exp(z - shift), axis=1, keep_dims=True)
    return larger, shift, total


@triton.jit
def forward_kernel(
    x,
    mask,
    y,
    rows,
    width,
    scale,
    size_b,
    size_c,
    # Strides, in elements, by the dimension's letter.
    x_a,
    x_b,
    x_c,
    x_w,
    mask_a,
    mask_b,
    mask_c,
    mask_w,
    MASK: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One program for each BLOCK_R rows. WHOLE: width <= BLOCK_W, so that x is read once."""
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    x_row = x + row_offset(row, size_b, size_c, x_a, x_b, x_c)
    mask_row = mask + row_offset(row, size_b, size_c, mask_a, mask_b, mask_c)
    y_row = y + row.to(tl.int64) * width
    column = tl.arange(0, BLOCK_W)[None, :]
    top = tl.full([BLOCK_R, 1], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R, 1], tl.float32)
    if WHOLE:
        inside = (row < rows) & (column < width)
        z = load_scores(x_row, mask_row, column, inside, x_w, mask_w, scale, MASK)
        top, shift, total = fold(z, top, total)
        tl.store(y_row + column, (tl.exp(z - shift) / total).to(y.dtype.element_ty), mask=inside)
    else:
        for first in range(0, width, BLOCK_W):
            inside = (row < rows) & (first + column < width)
            z = load_scores(x_row, mask_row, first + column, inside, x_w, mask_w, scale, MASK)
            top, shift, total = fold(z, top, total)
        shift = tl.where(top == float("-inf"), 0.0, top)
        for first in range(0, width, BLOCK_W):
            inside = (row < rows) & (first + column < width)
            z = load_scores(x_row, mask_row, first + column, inside, x_w, mask_w, scale, MASK)
            tl.store(y_row + first + column, (tl.exp(z - shift) / total).to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    y,
    dy,
    dx,
    rows,
    width,
    scale,
    size_b,
    size_c,
    dy_a,
    dy_b,
    dy_c,
    dy_w,
    WHOLE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One program for each BLOCK_R rows, as :func:`forward_kernel`."""
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    dy_row = dy + row_offset(row, size_b, size_c, dy_a, dy_b, dy_c)
    start = row.to(tl.int64) * width
    column = tl.arange(0, BLOCK_W)[None, :]
    dot = tl.zeros([BLOCK_R, 1], tl.float32)
    if WHOLE:
        inside = (row < rows) & (column < width)
        p = tl.load(y + start + column, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(dy_row + column * dy_w, mask=inside, other=0.0).to(tl.float32)
        dot = tl.sum(p * g, axis=1, keep_dims=True)
        tl.store(dx + start + column, (scale * p * (g - dot)).to(dx.dtype.element_ty), mask=inside)
    else:
        for first in range(0, width, BLOCK_W):
            inside = (row < rows) & (first + column < width)
            p = tl.load(y + start + first + column, mask=inside, other=0.0).to(tl.float32)
            g = tl.load(dy_row + (first + column) * dy_w, mask=inside, other=0.0).to(tl.float32)
            dot += tl.sum(p * g, axis=1, keep_dims=True)
        for first in range(0, width, BLOCK_W):
            inside = (row < rows) & (first + column < width)
            p = tl.load(y + start + first + column, mask=inside, other=0.0).to(tl.float32)
            g = tl.load(dy_row + (first + column) * dy_w, mask=inside, other=0.0).to(tl.float32)
            tl.store(dx + start + first + column, (scale * p * (g - dot)).to(dx.dtype.element_ty), mask=inside)
