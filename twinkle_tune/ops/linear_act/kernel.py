"""act(x W^T + b) as one tiled matrix product with the bias and the activation in its epilogue.

M rows, K inputs, N outputs.
    X (M, K)     rows may lie apart, x_row elements from one to the next
    W            element (n, k) lies at n * w_out + k * w_in: (N, K) as a Linear holds it, or (K, N) as a Conv1D does
    V (N)        bias
    Y (M, N)     the result, and P (M, N) what the activation was given, where a backward will want it
    DY, DP       their gradients; DV (programs, N) float32: partial sums of the bias's gradient

    p = x W^T + b        y = f(p)        dp = dy f'(p)        db = sum dp        dx = dp W        dW = dp^T x

A program makes one tile of Y. It walks along K: a tile of X times a tile of W is added to a sum that stays in
registers, in float32. Only then comes the epilogue, while the sum is still there: bias, activation, one rounding, one
write. Done as operations of their own, each of them would read and write all of Y once more.

Programs that run at the same time should share what they read. So tiles are numbered in groups: GROUP tiles down one
column of tiles before the next column begins, which read the same tiles of W, and few rows of X again and again.

The products of the backward, dp W and dp^T x, have no epilogue, and are the library's.
"""

import triton
import triton.language as tl

from twinkle_tune.ops.act_and_mul.kernel import act


@triton.jit
def _tile(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Which tile of Y a program makes."""
    down, across = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    number = tl.program_id(0)
    first = number // (GROUP * across) * GROUP
    height = tl.minimum(down - first, GROUP)
    within = number % (GROUP * across)
    return first + within % height, within // height


@triton.jit
def forward(
    X, W, V, Y, P, M, N, K, x_row, w_out, w_in,
    FUNCTION: tl.constexpr, BIAS: tl.constexpr, KEPT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    i, j = _tile(M, N, BLOCK_M, BLOCK_N, GROUP)
    # 64 bits: row times row length passes 2^31 elements in an ordinary batch.
    row = (i.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    col = (j.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    k = tl.arange(0, BLOCK_K)
    at_x = X + row * x_row + k[None, :]
    at_w = W + k[:, None] * w_in + col * w_out
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        left = K - start
        x = tl.load(at_x, mask=(row < M) & (k[None, :] < left), other=0.0)
        w = tl.load(at_w, mask=(k[:, None] < left) & (col < N), other=0.0)
        # Of float32 all digits: tensor cores would round the factors to ten bits.
        total = tl.dot(x, w, total, input_precision="ieee")
        at_x += BLOCK_K
        at_w += BLOCK_K * w_in
    if BIAS:
        total += tl.load(V + col, mask=col < N, other=0.0).to(tl.float32)
    mask = (row < M) & (col < N)
    if KEPT:
        tl.store(P + row * N + col, total.to(P.dtype.element_ty), mask=mask)
    y, _ = act(total, FUNCTION)
    tl.store(Y + row * N + col, y.to(Y.dtype.element_ty), mask=mask)


@triton.jit
def backward(
    DY, P, DP, DV, M, N, dy_row,
    FUNCTION: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (p, c) makes every so manieth block of rows of DP in the c-th block of columns, and their sum."""
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    first = tl.program_id(0).to(tl.int64)
    for block in range(first, tl.cdiv(M, ROWS), tl.num_programs(0)):
        row = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        mask = (row < M) & (col < N)
        dy = tl.load(DY + row * dy_row + col, mask=mask, other=0.0).to(tl.float32)
        p = tl.load(P + row * N + col, mask=mask, other=0.0).to(tl.float32)
        _, slope = act(p, FUNCTION)
        dp = (dy * slope).to(DP.dtype.element_ty)
        tl.store(DP + row * N + col, dp, mask=mask)
        total += dp.to(tl.float32)  # the product and the sum are of the same numbers
    if BIAS:
        tl.store(DV + first * N + col, tl.sum(total, axis=0, keep_dims=True), mask=col < N)
