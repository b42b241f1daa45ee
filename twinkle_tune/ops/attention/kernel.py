"""softmax(q k^T) v, forward and backward, some keys at a time.

B sequences, H heads of queries, HK heads of keys (each for H / HK heads of queries), TQ queries, TK keys, D columns.
    Q, DQ, Y, DY (B, H, TQ, D)     queries, their gradient, the result, its gradient
    K, V, DK, DV (B, HK, TK, D)    keys and values and their gradients
    MASK (B, TK)                   bytes: whether a key counts
    M, R, E (B, H, TQ) float32     of each row the largest score, 1 / the sum of exp(s - M), and the sum of p dp
Q, K, V, DY lie with any distance between sequences, heads and rows; all others are contiguous.

    s = cap(scale q k^T)      p = exp(s - M) R    y = p v           cap(s) = c tanh(s / c), or s
    dp = dy v^T       E = sum p dp     ds = p (dp - E) cap'      dq = scale ds k      dk = scale ds^T q      dv = p^T dy

The softmax of a row is made online (Milakov and Gimelshein 2018): of the keys so far a program holds the largest
score m, the sum of exp(s - m), and the sum of exp(s - m) v. Where new keys bring a larger m, both sums are multiplied
by exp(old m - new m) first. So the scores, TQ by TK of them, are never written (Dao et al. 2022). The backward makes
them again: one kernel by queries, for E and dq, then one by keys, for dk and dv (Dao 2023).

Two things that others do are cheaper and further off. E is also the sum of y dy, but y was rounded: of a row that looks
at one key alone dp and E should cancel, and in half precision they would not. And M and R could be one number,
M - log R, but beside large scores the logarithm loses its digits.

Query i stands at the place i + TK - TQ, the last one at the last key. CAUSAL: keys up to its place. WINDOW: keys nearer
than WINDOW places. Whole blocks of keys that nobody sees are left out. A row that sees no key gives zeros.
"""

import triton
import triton.language as tl


@triton.jit
def _rows(X, row, T, stride, D, WIDE: tl.constexpr):
    """Some rows of a head, (rows, WIDE), zeros where there are none."""
    col = tl.arange(0, WIDE)[None, :]
    return tl.load(X + row.to(tl.int64)[:, None] * stride + col, mask=(row[:, None] < T) & (col < D), other=0.0)


@triton.jit
def _store(X, x, row, T, D, WIDE: tl.constexpr):
    """Some rows counted from X. Where X is the block's first no offset that a load made is held through the loops."""
    col = tl.arange(0, WIDE)[None, :]
    tl.store(X + row[:, None] * D + col, x.to(X.dtype.element_ty), mask=(row[:, None] < T) & (col < D))


@triton.jit
def _scores(
    q, k, i, j, TQ, TK, MASK, scale, cap,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CAPPED: tl.constexpr, MASKED: tl.constexpr,
    PAST_LAST: tl.constexpr,
):  # fmt: skip
    """Scores of queries i for keys j, -inf where a query does not see a key; and the slope of the cap."""
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    slope = 1.0
    if CAPPED:
        share = 2 * tl.sigmoid(2 * s / cap) - 1  # tanh
        slope = 1 - share * share
        s = cap * share
    away = (i + TK - TQ)[:, None] - j[None, :]
    seen = j[None, :] < TK
    if PAST_LAST:  # Rows after the last query see nothing. Backward they weigh nothing of finite keys: R is read as 0.
        seen &= i[:, None] < TQ
    if CAUSAL:
        seen &= away >= 0
    if WINDOW:
        seen &= (away < WINDOW) & (away > -WINDOW)
    if MASKED:
        seen &= tl.load(MASK + j, mask=j < TK, other=0)[None, :] != 0
    return tl.where(seen, s, float("-inf")), slope


@triton.jit
def _keys_seen(first, TQ, TK, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """From which key to which the queries of a block may look; the first one at a block's beginning."""
    low, high = 0, TK
    place = first + TK - TQ
    if CAUSAL:
        high = tl.minimum(TK, place + BLOCK_M)
    elif WINDOW:
        high = tl.minimum(TK, place + BLOCK_M - 1 + WINDOW)
    if WINDOW:
        low = tl.maximum(0, place - WINDOW + 1) // BLOCK_N * BLOCK_N
    return low, high


@triton.jit
def forward(
    Q, K, V, MASK, Y, M, R, H, HK, TQ, TK, D, scale, cap,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CAPPED: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A program makes BLOCK_M rows of the result of one head, from BLOCK_N keys at a time."""
    first = tl.program_id(0) * BLOCK_M
    number = tl.program_id(1).to(tl.int64)
    b, h = number // H, number % H
    K += b * k_b + h // (H // HK) * k_h
    V += b * v_b + h // (H // HK) * v_h
    i = first + tl.arange(0, BLOCK_M)
    q = _rows(Q + b * q_b + h * q_h, i, TQ, q_t, D, WIDE)
    m = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    sums = tl.zeros([BLOCK_M], dtype=tl.float32)
    total = tl.zeros([BLOCK_M, WIDE], dtype=tl.float32)
    low, high = _keys_seen(first, TQ, TK, BLOCK_M, BLOCK_N, CAUSAL, WINDOW)
    for start in range(low, high, BLOCK_N):
        j = start + tl.arange(0, BLOCK_N)
        k = _rows(K, j, TK, k_t, D, WIDE)
        s, _ = _scores(q, k, i, j, TQ, TK, MASK + b * TK, scale, cap, CAUSAL, WINDOW, CAPPED, MASKED, True)
        larger = tl.maximum(m, tl.max(s, axis=1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)  # no key was seen so far
        p = tl.exp(s - shift[:, None])
        again = tl.exp(m - shift)
        sums = sums * again + tl.sum(p, axis=1)
        v = _rows(V, j, TK, v_t, D, WIDE)
        total = tl.dot(p.to(v.dtype), v, total * again[:, None], input_precision="ieee")
        m = larger
    some = sums > 0
    _store(Y + number * TQ * D, total / tl.where(some, sums, 1.0)[:, None], i.to(tl.int64), TQ, D, WIDE)
    tl.store(M + number * TQ + i, tl.where(some, m, 0.0), mask=i < TQ)
    tl.store(R + number * TQ + i, tl.where(some, 1 / tl.where(some, sums, 1.0), 0.0), mask=i < TQ)


@triton.jit
def backward_queries(
    Q, K, V, MASK, DY, M, R, E, DQ, H, HK, TQ, TK, D, scale, cap,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, dy_b, dy_h, dy_t,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CAPPED: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A program makes BLOCK_M rows of E, then of DQ, of one head."""
    first = tl.program_id(0) * BLOCK_M
    number = tl.program_id(1).to(tl.int64)
    b, h = number // H, number % H
    K += b * k_b + h // (H // HK) * k_h
    V += b * v_b + h // (H // HK) * v_h
    i = first + tl.arange(0, BLOCK_M)
    q = _rows(Q + b * q_b + h * q_h, i, TQ, q_t, D, WIDE)
    dy = _rows(DY + b * dy_b + h * dy_h, i, TQ, dy_t, D, WIDE)
    m = tl.load(M + number * TQ + i, mask=i < TQ, other=0.0)[:, None]
    r = tl.load(R + number * TQ + i, mask=i < TQ, other=0.0)[:, None]
    e = tl.zeros([BLOCK_M], dtype=tl.float32)
    dq = tl.zeros([BLOCK_M, WIDE], dtype=tl.float32)
    low, high = _keys_seen(first, TQ, TK, BLOCK_M, BLOCK_N, CAUSAL, WINDOW)
    for turn in tl.static_range(2):
        for start in range(low, high, BLOCK_N):
            j = start + tl.arange(0, BLOCK_N)
            k = _rows(K, j, TK, k_t, D, WIDE)
            s, slope = _scores(q, k, i, j, TQ, TK, MASK + b * TK, scale, cap, CAUSAL, WINDOW, CAPPED, MASKED, False)
            p = tl.exp(s - m) * r
            # Turned over: with q as well as dy on the left, threads would hold more float32 than they have room for.
            dp = tl.trans(tl.dot(_rows(V, j, TK, v_t, D, WIDE), tl.trans(dy), input_precision="ieee"))
            if turn == 0:
                e += tl.sum(p * dp, axis=1)
            else:
                ds = p * (dp - e[:, None]) * slope
                dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
        if turn == 0:
            tl.store(E + number * TQ + i, e, mask=i < TQ)
    _store(DQ + (number * TQ + first) * D, dq * scale, tl.arange(0, BLOCK_M), TQ - first, D, WIDE)


@triton.jit
def backward_keys(
    Q, K, V, MASK, DY, M, R, E, DK, DV, H, HK, TQ, TK, D, scale, cap,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, dy_b, dy_h, dy_t,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CAPPED: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A program makes BLOCK_N rows of DK and DV of one head of keys, from all heads of queries that it is for."""
    first = tl.program_id(0) * BLOCK_N
    number = tl.program_id(1).to(tl.int64)
    b, hk = number // HK, number % HK
    j = first + tl.arange(0, BLOCK_N)
    k = _rows(K + b * k_b + hk * k_h, j, TK, k_t, D, WIDE)
    v = _rows(V + b * v_b + hk * v_h, j, TK, v_t, D, WIDE)
    dk = tl.zeros([BLOCK_N, WIDE], dtype=tl.float32)
    dv = tl.zeros([BLOCK_N, WIDE], dtype=tl.float32)
    low, high, place = 0, TQ, first + TQ - TK  # of the query that stands at the first key
    if CAUSAL:
        low = tl.maximum(0, place) // BLOCK_M * BLOCK_M
    elif WINDOW:
        low = tl.maximum(0, place - WINDOW + 1) // BLOCK_M * BLOCK_M
    if WINDOW:
        high = tl.minimum(TQ, place + BLOCK_N - 1 + WINDOW)
    for h in range(hk * (H // HK), (hk + 1) * (H // HK)):
        at = (b * H + h) * TQ
        for start in range(low, high, BLOCK_M):
            i = start + tl.arange(0, BLOCK_M)
            q = _rows(Q + b * q_b + h * q_h, i, TQ, q_t, D, WIDE)
            dy = _rows(DY + b * dy_b + h * dy_h, i, TQ, dy_t, D, WIDE)
            s, slope = _scores(q, k, i, j, TQ, TK, MASK + b * TK, scale, cap, CAUSAL, WINDOW, CAPPED, MASKED, False)
            m = tl.load(M + at + i, mask=i < TQ, other=0.0)[:, None]
            r = tl.load(R + at + i, mask=i < TQ, other=0.0)[:, None]
            p = tl.exp(s - m) * r
            dv = tl.dot(tl.trans(p.to(dy.dtype)), dy, dv, input_precision="ieee")
            dp = tl.trans(tl.dot(v, tl.trans(dy), input_precision="ieee"))  # as E was made of it
            ds = p * (dp - tl.load(E + at + i, mask=i < TQ, other=0.0)[:, None]) * slope
            dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision="ieee")
    _store(DK + (number * TK + first) * D, dk * scale, tl.arange(0, BLOCK_N), TK - first, D, WIDE)
    _store(DV + (number * TK + first) * D, dv, tl.arange(0, BLOCK_N), TK - first, D, WIDE)
