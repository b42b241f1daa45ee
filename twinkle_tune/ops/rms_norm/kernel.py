"""RMSNorm, forward and backward, alone and fused with the addition before it.

B rows, D width, P programs.
    X, Y, DY, DX (B, D)   input, output and their gradients; rows may lie apart (x_row elements from one to the next)
    A, S, DS     (B, D)   with ADD: what is added to X, the sum, and the sum's own incoming gradient; else S is X
    W            (D)      weight; R (B) float32: 1 / root of mean square of each row; DW (P, D) float32: partial sums

    r = rsqrt(mean(x^2) + eps)        n = x r        y = n (w + offset)
    g = dy (w + offset)               dx = r (g - n mean(g n))        dw = sum over rows of dy n

Everything is computed in float32. ROUND: n is rounded to S's dtype before it is weighed, as Llama does; the backward is
that of the exact formula.
"""

import triton
import triton.language as tl


@triton.jit
def _row(block, ROWS: tl.constexpr):
    # 64 bits: row times row length passes 2^31 elements in an ordinary batch of logits or long sequences.
    return (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]


@triton.jit
def _summed(X, A, S, at_x, at_a, at_s, mask, ADD: tl.constexpr, STORE: tl.constexpr):
    x = tl.load(X + at_x, mask=mask, other=0.0)
    if ADD:
        x = (x.to(tl.float32) + tl.load(A + at_a, mask=mask, other=0.0).to(tl.float32)).to(S.dtype.element_ty)
        if STORE:
            tl.store(S + at_s, x, mask=mask)
    return x.to(tl.float32)


@triton.jit
def _weighed(x, r, W, col, inside, offset, dtype: tl.constexpr, WEIGHT: tl.constexpr, ROUND: tl.constexpr):
    n = x * r
    if WEIGHT:
        if ROUND:
            n = n.to(dtype).to(tl.float32)
        n *= tl.load(W + col, mask=inside, other=0.0).to(tl.float32) + offset
    return n


@triton.jit
def forward(
    X, A, W, S, Y, R, B, D, x_row, a_row, eps, offset,
    ADD: tl.constexpr, WEIGHT: tl.constexpr, ROUND: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """ROWS rows a program: held in registers where BLOCK holds a WHOLE row, else read twice, BLOCK by BLOCK."""
    row = _row(tl.program_id(0).to(tl.int64), ROWS)
    col = tl.arange(0, BLOCK)[None, :]
    if WHOLE:
        inside = col < D
        mask = (row < B) & inside
        x = _summed(X, A, S, row * x_row + col, row * a_row + col, row * D + col, mask, ADD, True)
        r = tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) / D + eps)
        y = _weighed(x, r, W, col, inside, offset, S.dtype.element_ty, WEIGHT, ROUND)
        tl.store(Y + row * D + col, y.to(Y.dtype.element_ty), mask=mask)
    else:
        squares = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
        for start in range(0, D, BLOCK):
            at = start + col
            mask = (row < B) & (at < D)
            x = _summed(X, A, S, row * x_row + at, row * a_row + at, row * D + at, mask, ADD, True)
            squares += x * x
        r = tl.rsqrt(tl.sum(squares, axis=1, keep_dims=True) / D + eps)
        for start in range(0, D, BLOCK):
            at = start + col
            mask = (row < B) & (at < D)
            # With ADD read both again rather than S: other threads' stores to it may not have arrived.
            x = _summed(X, A, S, row * x_row + at, row * a_row + at, row * D + at, mask, ADD, False)
            y = _weighed(x, r, W, at, at < D, offset, S.dtype.element_ty, WEIGHT, ROUND)
            tl.store(Y + row * D + at, y.to(Y.dtype.element_ty), mask=mask)
    tl.store(R + row, r, mask=row < B)


@triton.jit
def _graded(DY, X, W, r, at_dy, at_x, col, mask, inside, offset, WEIGHT: tl.constexpr):
    dy = tl.load(DY + at_dy, mask=mask, other=0.0).to(tl.float32)
    n = tl.load(X + at_x, mask=mask, other=0.0).to(tl.float32) * r
    g = dy
    if WEIGHT:
        g = dy * (tl.load(W + col, mask=inside, other=0.0).to(tl.float32) + offset)
    return dy, n, g


@triton.jit
def _store_dx(DX, DS, dx, at_dx, at_ds, mask, ADD: tl.constexpr):
    if ADD:
        dx += tl.load(DS + at_ds, mask=mask, other=0.0).to(tl.float32)
    tl.store(DX + at_dx, dx.to(DX.dtype.element_ty), mask=mask)


@triton.jit
def backward_whole(
    DY, X, W, R, DS, DX, DW, B, D, dy_row, x_row, ds_row, offset,
    ADD: tl.constexpr, WEIGHT: tl.constexpr, DWEIGHT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Persistent: each of P programs takes every P-th block of rows and sums its share of DW in registers."""
    col = tl.arange(0, BLOCK)[None, :]
    inside = col < D
    partial = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    first = tl.program_id(0).to(tl.int64)
    for block in tl.range(first, tl.cdiv(B, ROWS), tl.num_programs(0), num_stages=STAGES):
        row = _row(block, ROWS)
        mask = (row < B) & inside
        r = tl.load(R + row, mask=row < B, other=0.0)
        dy, n, g = _graded(DY, X, W, r, row * dy_row + col, row * x_row + col, col, mask, inside, offset, WEIGHT)
        dx = r * (g - n * (tl.sum(g * n, axis=1, keep_dims=True) / D))
        _store_dx(DX, DS, dx, row * D + col, row * ds_row + col, mask, ADD)
        if DWEIGHT:
            partial += dy * n
    if DWEIGHT:
        tl.store(DW + first * D + col, tl.sum(partial, axis=0, keep_dims=True), mask=inside)


@triton.jit
def backward_wide(
    DY, X, W, R, DS, DX, B, D, dy_row, x_row, ds_row, offset,
    ADD: tl.constexpr, WEIGHT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """DX of rows too wide for registers: read twice, BLOCK by BLOCK."""
    row = _row(tl.program_id(0).to(tl.int64), ROWS)
    col = tl.arange(0, BLOCK)[None, :]
    r = tl.load(R + row, mask=row < B, other=0.0)
    products = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for start in range(0, D, BLOCK):
        at = start + col
        mask = (row < B) & (at < D)
        _, n, g = _graded(DY, X, W, r, row * dy_row + at, row * x_row + at, at, mask, at < D, offset, WEIGHT)
        products += g * n
    mean = tl.sum(products, axis=1, keep_dims=True) / D
    for start in range(0, D, BLOCK):
        at = start + col
        mask = (row < B) & (at < D)
        _, n, g = _graded(DY, X, W, r, row * dy_row + at, row * x_row + at, at, mask, at < D, offset, WEIGHT)
        _store_dx(DX, DS, r * (g - n * mean), row * D + at, row * ds_row + at, mask, ADD)


@triton.jit
def weight_wide(
    DY, X, R, DW, B, D, dy_row, x_row, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """DW of such rows: program (p, c) sums every P-th block of rows in the c-th block of columns."""
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    partial = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    first = tl.program_id(0).to(tl.int64)
    for block in range(first, tl.cdiv(B, ROWS), tl.num_programs(0)):
        row = _row(block, ROWS)
        mask = (row < B) & (col < D)
        r = tl.load(R + row, mask=row < B, other=0.0)
        dy, n, _ = _graded(DY, X, DY, r, row * dy_row + col, row * x_row + col, col, mask, mask, 0.0, False)
        partial += dy * n
    tl.store(DW + first * D + col, tl.sum(partial, axis=0, keep_dims=True), mask=col < D)
