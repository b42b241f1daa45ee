"""Cross entropy of logits and class indices: logarithms of probabilities are never written to memory.

Shapes: R rows, V classes, S parts that a row is split into (few rows would else leave most of a GPU idle).
    logits (R, V) with adjacent columns; target (R) int64; lse (2, R) float32; partial (3, R, S) float32.

With top = max(x), rest = log sum exp(x - top), lse = top + rest; n the rows that are not ignored, or 1 for the sum:

    row         l = rest + (1 - smoothing) (top - x[target]) + smoothing (top - mean(x)) + z lse^2      0 where ignored
    loss        sum l / n
    backward    dx = dloss / n * ((1 + 2 z lse) exp(x - top - rest) - (1 - smoothing) [target] - smoothing / V)

top and rest are kept apart: added up, large logits would cost rest its last digits.

A target that is no class makes the loss nan and is never followed as an address.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scan_row(x_row, first, end, SUMMED: tl.constexpr, BLOCK: tl.constexpr):
    """Largest of the logits [first, end), sum of exp(logit - largest), and their plain sum where SUMMED."""
    top, total, plain = float("-inf"), 0.0, 0.0
    for start in range(first, end, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(x_row + column, mask=column < end, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(top, tl.max(x, axis=0))
        # -inf - -inf would be nan where all so far is -inf (classes that are ruled out), and more may come.
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(x - shift), axis=0)
        top = larger
        if SUMMED:
            plain += tl.sum(tl.where(column < end, x, 0.0), axis=0)
    return top, total, plain


@triton.jit
def row_loss(top, rest, x_target, plain, classes, smoothing, z, SMOOTHED: tl.constexpr, SQUARED: tl.constexpr):
    """l of a row, or of a block of them."""
    loss = rest + (top - x_target)
    if SMOOTHED:
        loss = rest + (1.0 - smoothing) * (top - x_target) + smoothing * (top - plain / classes)
    if SQUARED:
        loss += z * (top + rest) * (top + rest)
    return loss


@triton.jit
def slope(x, column, target, top, rest, classes, smoothing, z, SMOOTHED: tl.constexpr, SQUARED: tl.constexpr):
    """dl/dx of a block of columns."""
    share = tl.exp(x - top - rest)
    if SQUARED:
        share *= 1.0 + 2.0 * z * (top + rest)
    if SMOOTHED:
        return share - tl.where(column == target, 1.0 - smoothing, 0.0) - smoothing / classes
    return share - tl.where(column == target, 1.0, 0.0)


@triton.jit
def target_logit(x_row, target, classes, inside):
    """The logit of the target; nan where the target is no class."""
    known = (target >= 0) & (target < classes)
    return tl.load(x_row + target, mask=inside & known, other=float("nan")).to(tl.float32)


@triton.jit
def scan_kernel(
    logits,
    target,
    partial,
    rows,
    classes,
    stride,
    ignore_index,
    SUMMED: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Forward, first: what the lse of each part of each row is made of. A grid of R * S."""
    row, part = tl.program_id(0) // SPLITS, tl.program_id(0) % SPLITS
    # int64: 16384 rows of 152064 classes are over 2**31 elements.
    x_row = logits + row.to(tl.int64) * stride
    size = tl.cdiv(tl.cdiv(classes, SPLITS), BLOCK) * BLOCK
    first = part * size
    end = tl.minimum(first + size, classes)
    # Of an ignored row nothing is read.
    end = tl.where(tl.load(target + row) == ignore_index, first, end)
    top, total, plain = scan_row(x_row, first, end, SUMMED, BLOCK)
    place = partial + row * SPLITS + part
    tl.store(place, top)
    tl.store(place + rows * SPLITS, total)
    tl.store(place + 2 * rows * SPLITS, plain)


@triton.jit
def finish_kernel(
    logits,
    target,
    partial,
    lse,
    loss,
    divisor,
    rows,
    classes,
    stride,
    ignore_index,
    smoothing,
    z,
    MEAN: tl.constexpr,
    SMOOTHED: tl.constexpr,
    SQUARED: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Forward, second: the parts put together, and the loss. One program, always the same order of additions."""
    part = tl.arange(0, SPLITS)[None, :]
    losses = tl.zeros([BLOCK_R], tl.float32)
    kept_rows = tl.zeros([BLOCK_R], tl.int32)
    for first in range(0, rows, BLOCK_R):
        row = first + tl.arange(0, BLOCK_R)
        inside = row < rows
        index = tl.load(target + row, mask=inside, other=0)
        place = partial + row[:, None] * SPLITS + part
        top_rs = tl.load(place, mask=inside[:, None], other=0.0)
        total_rs = tl.load(place + rows * SPLITS, mask=inside[:, None], other=1.0)
        plain = tl.sum(tl.load(place + 2 * rows * SPLITS, mask=inside[:, None], other=0.0), axis=1)
        top = tl.max(top_rs, axis=1)
        top = tl.where(top == float("-inf"), 0.0, top)
        kept = inside & (index != ignore_index)
        # Nothing was read of an ignored row: its sum is 0.
        total = tl.where(kept, tl.sum(total_rs * tl.exp(top_rs - top[:, None]), axis=1), 1.0)
        rest = tl.log(total)
        tl.store(lse + row, top, mask=inside)
        tl.store(lse + rows + row, rest, mask=inside)
        x_target = target_logit(logits + row.to(tl.int64) * stride, index, classes, kept)
        one = row_loss(top, rest, x_target, plain, classes, smoothing, z, SMOOTHED, SQUARED)
        losses += tl.where(kept, one, 0.0)
        kept_rows += kept.to(tl.int32)
    number = 1.0
    if MEAN:
        number = tl.sum(kept_rows, axis=0).to(tl.float32)
    tl.store(divisor, number)
    tl.store(loss, (tl.sum(losses, axis=0) / number).to(loss.dtype.element_ty))  # 0 / 0 is nan, as in torch


@triton.jit
def backward_kernel(
    logits,
    target,
    lse,
    divisor,
    dloss,
    dlogits,
    rows,
    classes,
    stride,
    ignore_index,
    smoothing,
    z,
    SMOOTHED: tl.constexpr,
    SQUARED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program for each BLOCK columns of each row: a grid of (R, ceil(V / BLOCK))."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < classes
    index = tl.load(target + row)
    place = dlogits + row * classes + column
    if index == ignore_index:
        tl.store(place, tl.zeros([BLOCK], dlogits.dtype.element_ty), mask=inside)
    else:
        scale = tl.load(dloss).to(tl.float32) / tl.load(divisor)
        x = tl.load(logits + row * stride + column, mask=inside, other=0.0).to(tl.float32)
        top, rest = tl.load(lse + row), tl.load(lse + rows + row)
        d = slope(x, column, index, top, rest, classes, smoothing, z, SMOOTHED, SQUARED)
        tl.store(place, (scale * d).to(dlogits.dtype.element_ty), mask=inside)


@triton.jit
def in_place_kernel(
    logits,
    target,
    losses,
    classes,
    stride,
    ignore_index,
    smoothing,
    z,
    gain,
    GRADIENT: tl.constexpr,
    SCALED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    SQUARED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """l of each row, and where GRADIENT its logits turned into dl/dx while the row is in the cache. A grid of R.

    Where SCALED, dl/dx is multiplied with the scalar at ``gain`` before it is rounded to the logits' dtype.

    Only for logits that nobody else holds.
    """
    row = tl.program_id(0).to(tl.int64)
    x_row = logits + row * stride
    index = tl.load(target + row)
    kept = index != ignore_index
    x_target = target_logit(x_row, index, classes, kept)
    top, total, plain = scan_row(x_row, 0, tl.where(kept, classes, 0), SMOOTHED, BLOCK)
    # Nothing was read of an ignored row: its sum is 0.
    rest = tl.log(tl.where(kept, total, 1.0))
    top = tl.where(top == float("-inf"), 0.0, top)
    loss = row_loss(top, rest, x_target, plain, classes, smoothing, z, SMOOTHED, SQUARED)
    tl.store(losses + row, tl.where(kept, loss, 0.0))
    if GRADIENT:
        share = 1.0
        if SCALED:
            share = tl.load(gain)
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < classes
            x = tl.load(x_row + column, mask=inside, other=0.0).to(tl.float32)
            d = share * slope(x, column, index, top, rest, classes, smoothing, z, SMOOTHED, SQUARED)
            tl.store(x_row + column, tl.where(kept, d, 0.0).to(logits.dtype.element_ty), mask=inside)
