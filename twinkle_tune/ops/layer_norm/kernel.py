"""LayerNorm, forward and backward.

B rows, D width, P programs.
    X, Y, DY, DX (B, D)   input, output and their gradients; rows may lie apart (x_row elements from one to the next)
    W, V         (D)      weight and bias; C, R (B) float32: mean and 1 / standard deviation of each row
    DW, DV       (P, D)   float32: partial sums of the gradients of weight and bias

    c = mean(x)        r = rsqrt(mean((x - c)^2) + eps)        n = (x - c) r        y = n (w + offset) + v
    g = dy (w + offset)        dx = r (g - mean(g) - n mean(g n))        dw = sum dy n        dv = sum dy

Everything is computed in float32. The variance is that of the differences from the mean: a sum of squares would lose
it beside a large mean. Of rows too wide for registers, mean and squares are merged block by block (Chan, Golub and
LeVeque 1979).
"""

import triton
import triton.language as tl


@triton.jit
def _row(block, ROWS: tl.constexpr):
    # 64 bits: row times row length passes 2^31 elements in an ordinary batch.
    return (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]


@triton.jit
def _affine(n, W, V, col, inside, offset, WEIGHT: tl.constexpr, BIAS: tl.constexpr):
    if WEIGHT:
        n *= tl.load(W + col, mask=inside, other=0.0).to(tl.float32) + offset
    if BIAS:
        n += tl.load(V + col, mask=inside, other=0.0).to(tl.float32)
    return n


@triton.jit
def forward(
    X, W, V, Y, C, R, B, D, x_row, eps, offset,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """ROWS rows a program: held in registers where BLOCK holds a WHOLE row, else read twice, BLOCK by BLOCK."""
    row = _row(tl.program_id(0).to(tl.int64), ROWS)
    col = tl.arange(0, BLOCK)[None, :]
    if WHOLE:
        inside = col < D
        mask = (row < B) & inside
        x = tl.load(X + row * x_row + col, mask=mask, other=0.0).to(tl.float32)
        c = tl.sum(x, axis=1, keep_dims=True) / D
        away = tl.where(mask, x - c, 0.0)
        r = tl.rsqrt(tl.sum(away * away, axis=1, keep_dims=True) / D + eps)
        y = _affine(away * r, W, V, col, inside, offset, WEIGHT, BIAS)
        tl.store(Y + row * D + col, y.to(Y.dtype.element_ty), mask=mask)
    else:
        c = tl.zeros([ROWS, 1], dtype=tl.float32)
        squares = tl.zeros([ROWS, 1], dtype=tl.float32)
        for start in range(0, D, BLOCK):
            at = start + col
            mask = (row < B) & (at < D)
            x = tl.load(X + row * x_row + at, mask=mask, other=0.0).to(tl.float32)
            count = tl.minimum(BLOCK, D - start).to(tl.float32)
            here = tl.sum(x, axis=1, keep_dims=True) / count
            away = tl.where(mask, x - here, 0.0)
            apart = here - c
            share = count / (start + count)
            c += apart * share
            squares += tl.sum(away * away, axis=1, keep_dims=True) + apart * apart * share * start
        r = tl.rsqrt(squares / D + eps)
        for start in range(0, D, BLOCK):
            at = start + col
            mask = (row < B) & (at < D)
            x = tl.load(X + row * x_row + at, mask=mask, other=0.0).to(tl.float32)
            y = _affine((x - c) * r, W, V, at, at < D, offset, WEIGHT, BIAS)
            tl.store(Y + row * D + at, y.to(Y.dtype.element_ty), mask=mask)
    tl.store(C + row, c, mask=row < B)
    tl.store(R + row, r, mask=row < B)


@triton.jit
def _graded(DY, X, W, C, R, at_dy, at_x, row, col, B, mask, inside, offset, WEIGHT: tl.constexpr):
    dy = tl.load(DY + at_dy, mask=mask, other=0.0).to(tl.float32)
    c = tl.load(C + row, mask=row < B, other=0.0)
    r = tl.load(R + row, mask=row < B, other=0.0)
    n = (tl.load(X + at_x, mask=mask, other=0.0).to(tl.float32) - c) * r
    g = dy
    if WEIGHT:
        g = dy * (tl.load(W + col, mask=inside, other=0.0).to(tl.float32) + offset)
    return dy, n, g, r


@triton.jit
def backward_whole(
    DY, X, W, C, R, DX, DW, DV, B, D, dy_row, x_row, offset,
    WEIGHT: tl.constexpr, DWEIGHT: tl.constexpr, DBIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Persistent: each of P programs takes every P-th block of rows and sums its share of DW and DV in registers."""
    col = tl.arange(0, BLOCK)[None, :]
    inside = col < D
    weights = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    biases = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    first = tl.program_id(0).to(tl.int64)
    for block in tl.range(first, tl.cdiv(B, ROWS), tl.num_programs(0), num_stages=STAGES):
        row = _row(block, ROWS)
        mask = (row < B) & inside
        at_dy, at_x = row * dy_row + col, row * x_row + col
        dy, n, g, r = _graded(DY, X, W, C, R, at_dy, at_x, row, col, B, mask, inside, offset, WEIGHT)
        mean = tl.sum(g, axis=1, keep_dims=True) / D
        product = tl.sum(g * n, axis=1, keep_dims=True) / D
        tl.store(DX + row * D + col, (r * (g - mean - n * product)).to(DX.dtype.element_ty), mask=mask)
        if DWEIGHT:
            weights += dy * n
        if DBIAS:
            biases += dy
    if DWEIGHT:
        tl.store(DW + first * D + col, tl.sum(weights, axis=0, keep_dims=True), mask=inside)
    if DBIAS:
        tl.store(DV + first * D + col, tl.sum(biases, axis=0, keep_dims=True), mask=inside)


@triton.jit
def backward_wide(
    DY, X, W, C, R, DX, B, D, dy_row, x_row, offset,
    WEIGHT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """DX of rows too wide for registers: read twice, BLOCK by BLOCK."""
    row = _row(tl.program_id(0).to(tl.int64), ROWS)
    col = tl.arange(0, BLOCK)[None, :]
    sums = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    products = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for start in range(0, D, BLOCK):
        at = start + col
        mask = (row < B) & (at < D)
        at_dy, at_x = row * dy_row + at, row * x_row + at
        _, n, g, _ = _graded(DY, X, W, C, R, at_dy, at_x, row, at, B, mask, at < D, offset, WEIGHT)
        sums += g
        products += g * n
    mean = tl.sum(sums, axis=1, keep_dims=True) / D
    product = tl.sum(products, axis=1, keep_dims=True) / D
    for start in range(0, D, BLOCK):
        at = start + col
        mask = (row < B) & (at < D)
        at_dy, at_x = row * dy_row + at, row * x_row + at
        _, n, g, r = _graded(DY, X, W, C, R, at_dy, at_x, row, at, B, mask, at < D, offset, WEIGHT)
        tl.store(DX + row * D + at, (r * (g - mean - n * product)).to(DX.dtype.element_ty), mask=mask)


@triton.jit
def weight_wide(
    DY, X, C, R, DW, DV, B, D, dy_row, x_row, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """DW and DV of such rows: program (p, c) sums every P-th block of rows in the c-th block of columns."""
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    weights = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    biases = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    first = tl.program_id(0).to(tl.int64)
    for block in range(first, tl.cdiv(B, ROWS), tl.num_programs(0)):
        row = _row(block, ROWS)
        mask = (row < B) & (col < D)
        at_dy, at_x = row * dy_row + col, row * x_row + col
        dy, n, _, _ = _graded(DY, X, DY, C, R, at_dy, at_x, row, col, B, mask, mask, 0.0, False)
        weights += dy * n
        biases += dy
    tl.store(DW + first * D + col, tl.sum(weights, axis=0, keep_dims=True), mask=col < D)
    tl.store(DV + first * D + col, tl.sum(biases, axis=0, keep_dims=True), mask=col < D)
