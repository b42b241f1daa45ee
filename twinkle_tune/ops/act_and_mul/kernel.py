"""act(gate) * up, forward and backward.

B rows, M middle width.
    G, U, DG, DU (B, M)   gate, up and their gradients: rows may lie apart, as the halves of a packed (B, 2 M) do
    Y, DY        (B, M)   the product and its incoming gradient

    y = f(g) u        du = dy f(g)        dg = dy u f'(g)

    silu       f = g s                              f' = s (1 + g (1 - s))            s = 1 / (1 + exp(-g))
    gelu       f = g p      p = (1 + erf(g/sqrt 2))/2    f' = p + g exp(-g^2/2) / sqrt(2 pi)
    gelu_tanh  f = g s(2 v) v = c (g + a g^3)       f' = s + 2 g s (1 - s) c (1 + 3 a g^2)
    relu       f = max(g, 0)                        f' = 0 where g <= 0, else 1

Of gelu_tanh (1 + tanh v)/2 is written as s(2 v), the same and without a difference of two numbers near one.
Everything is computed in float32 and rounded once. Programs: (block of rows, block of columns).
"""

import triton
import triton.language as tl


@triton.jit
def act(g, FUNCTION: tl.constexpr):
    """f and f' of the gate."""
    if FUNCTION == "silu":
        s = tl.sigmoid(g)
        f = g * s
        slope = s * (1 + g * (1 - s))
    elif FUNCTION == "gelu":
        p = 0.5 * (1 + tl.erf(g * 0.7071067811865476))
        f = g * p
        slope = p + g * 0.3989422804014327 * tl.exp(-0.5 * g * g)
    elif FUNCTION == "relu":
        f = tl.where(g <= 0, 0.0, g)  # which leaves what is no number
        slope = tl.where(g <= 0, 0.0, 1.0)
    else:
        tl.static_assert(FUNCTION == "gelu_tanh")
        s = tl.sigmoid(2 * 0.7978845608028654 * (g + 0.044715 * g * g * g))
        f = g * s
        slope = s + 2 * g * s * (1 - s) * 0.7978845608028654 * (1 + 3 * 0.044715 * g * g)
    return f, slope


@triton.jit
def _tile(B, M, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    # 64 bits: row times row length passes 2^31 elements in an ordinary batch.
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    col = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    return row, col, (row < B) & (col < M)


@triton.jit
def forward(
    G, U, Y, B, M, g_row, u_row,
    FUNCTION: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, col, mask = _tile(B, M, ROWS, BLOCK)
    g = tl.load(G + row * g_row + col, mask=mask, other=0.0).to(tl.float32)
    u = tl.load(U + row * u_row + col, mask=mask, other=0.0).to(tl.float32)
    f, _ = act(g, FUNCTION)
    tl.store(Y + row * M + col, (f * u).to(Y.dtype.element_ty), mask=mask)


@triton.jit
def backward(
    DY, G, U, DG, DU, B, M, dy_row, g_row, u_row, dg_row, du_row,
    FUNCTION: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, col, mask = _tile(B, M, ROWS, BLOCK)
    dy = tl.load(DY + row * dy_row + col, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(G + row * g_row + col, mask=mask, other=0.0).to(tl.float32)
    u = tl.load(U + row * u_row + col, mask=mask, other=0.0).to(tl.float32)
    f, slope = act(g, FUNCTION)
    tl.store(DG + row * dg_row + col, (dy * u * slope).to(DG.dtype.element_ty), mask=mask)
    tl.store(DU + row * du_row + col, (dy * f).to(DU.dtype.element_ty), mask=mask)
