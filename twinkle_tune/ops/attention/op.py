"""Attention as one op of torch: causal, with a window, a padding mask, a soft cap, and fewer heads of keys."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from twinkle_tune.errors import ConfigError, ShapeError
from twinkle_tune.ops import launch
from twinkle_tune.ops.attention.space import NAMES, default, space, sums, wide
from twinkle_tune.ops.node import Node, no_gradient
from twinkle_tune.ops.op import Op, cached_default
from twinkle_tune.ops.space import Config, Dims

_WIDEST = 256


class Settings(NamedTuple):
    """Who sees whom, and how scores are made; a window or cap of 0 is none."""

    causal: bool
    window: int
    softcap: float
    scale: float
    config: list[int] | None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    window: int = 0,
    softcap: float = 0.0,
    scale: float | None = None,
    config: Config | None = None,
) -> Tensor:
    """``softmax(cap(scale q k^T)) v`` without the scores in memory.

    Query i stands at the place ``i + keys - queries``: the last query at the last key, as with a cache.

    Args:
        q: (batch, heads, queries, width), width up to 256, any strides.
        k: (batch, kv_heads, keys, width), kv_heads a divisor of heads, of q's dtype.
        v: as k.
        mask: (batch, keys) bool, whether a key counts (padding); None for all.
        causal: a query sees keys up to its place only.
        window: a query sees keys fewer than this many places away only; 0 for all.
        softcap: scores become ``softcap tanh(score / softcap)``; 0 for none.
        scale: of the scores; None for 1 / sqrt(width).
        config: of the kernels; None for the default.

    Returns:
        (batch, heads, queries, width), contiguous; zeros for a query that sees no key.

    Raises:
        ShapeError: the tensors do not fit together.
        ConfigError: a window or cap below 0, or the config is not one of this op's.
    """
    if not fits(q, k, v, mask):
        got = ", ".join(f"{n} {list(x.shape)} {x.dtype}" for n, x in zip("qkv", (q, k, v), strict=True))
        got += "" if mask is None else f", mask {list(mask.shape)} {mask.dtype}"
        raise ShapeError(
            f"attention: got {got}, expected q (batch, heads, queries, width up to {_WIDEST}), k and v (batch, "
            "kv_heads, keys, width) in one dtype, kv_heads a divisor of heads, a bool mask (batch, keys); "
            "transpose or expand them"
        )
    if window < 0 or softcap < 0:
        raise ConfigError(f"attention: got window={window}, softcap={softcap}, expected 0 (none) or more")
    settings = Settings(causal, window, softcap, _scale(q, scale), launch.values(config, NAMES))
    result: Tensor = _node(q, k, v, mask, settings)
    return result


def fits(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> bool:
    """Whether the tensors have the shapes and dtypes that :func:`attention` takes."""
    return (
        q.dim() == k.dim() == 4
        and k.shape == v.shape
        and (q.shape[0], q.shape[3]) == (k.shape[0], k.shape[3])
        and q.dtype == k.dtype == v.dtype
        and q.shape[3] <= _WIDEST
        and k.shape[1] > 0
        and q.shape[1] % k.shape[1] == 0
        and (mask is None or (mask.dtype == torch.bool and mask.shape == (k.shape[0], k.shape[2])))
    )


def _scale(q: Tensor, scale: float | None) -> float:
    return float(q.shape[-1] ** -0.5 if scale is None else scale)


def _seen_by(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, window: int) -> Tensor:
    """(batch or 1, 1, queries, keys) bool: which query sees which key."""
    queries, keys = q.shape[2], k.shape[2]
    away = (torch.arange(queries, device=q.device) + keys - queries)[:, None] - torch.arange(keys, device=q.device)
    seen = torch.ones_like(away, dtype=torch.bool)
    if causal:
        seen = seen & (away >= 0)
    if window:
        seen = seen & (away.abs() < window)
    seen = seen[None, None]
    return seen if mask is None else seen & mask[:, None, None, :]


def reference(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None,
    causal: bool = False, window: int = 0, softcap: float = 0.0, scale: float | None = None,
) -> Tensor:  # fmt: skip
    """The formula as models write it, with all scores in memory: softmax at least in float32, all else in q's dtype."""
    p, _ = _shares(q, k, _seen_by(q, k, mask, causal, window), softcap, _scale(q, scale))
    return p @ _for_each_head(v, q)


def _for_each_head(k: Tensor, q: Tensor) -> Tensor:
    return k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)


def _shares(q: Tensor, k: Tensor, seen: Tensor, softcap: float, scale: float) -> tuple[Tensor, Tensor]:
    """The softmax of the scores, and the scores after the cap."""
    s = q @ _for_each_head(k, q).transpose(-1, -2) * scale
    s = softcap * torch.tanh(s / softcap) if softcap else s
    some = seen.any(-1, keepdim=True)
    # A row that sees nothing has even shares of zero, not NaN.
    held = torch.where(some, s.masked_fill(~seen, float("-inf")), torch.zeros_like(s))
    p = torch.softmax(held, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return torch.where(some, p, torch.zeros_like(p)), s


def _reference(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, window: int, softcap: float, scale: float
) -> Tensor:
    return reference(q, k, v, mask, causal, window, softcap, scale)


def _allocate(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty((2, *q.shape[:3]), dtype=torch.float32)


def _forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    o, rows = _allocate(q, k, v, mask, settings)
    if not k.shape[2]:
        return o.zero_(), rows.zero_()
    if o.numel():
        q, k, v = (_dense(x) for x in (q, k, v))
        settled = {**_who_sees(mask, settings), **_plan(q, k, settings, "block_", "")}
        with launch.on(q):
            launch.kernels("attention").forward[(-(-q.shape[2] // settled["BLOCK_M"]), q.shape[0] * q.shape[1])](
                q, k, v, _bytes(mask, q), o, *rows, *_sizes(q, k), settings.scale, settings.softcap,
                *_strides(q, k, v), **settled,
            )  # fmt: skip
    return o, rows


def _allocate_backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rows: Tensor,
    needs: list[bool], settings: Settings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), no_gradient(q)


def _backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rows: Tensor,
    needs: list[bool], settings: Settings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    made = _allocate_backward(do, q, k, v, mask, rows, needs, settings)
    dq, dk, dv, _ = made
    if not do.numel() or not k.shape[2]:
        return dq.zero_(), dk.zero_(), dv.zero_(), made[3]
    q, k, v, do = (_dense(x) for x in (q, k, v, do))
    batch, heads, queries, _ = q.shape
    kernels, given, products = launch.kernels("attention"), _bytes(mask, q), torch.empty_like(rows[0])
    settled = {**_who_sees(mask, settings), **_plan(q, k, settings, "back_", "back_")}
    rest = (*_sizes(q, k), settings.scale, settings.softcap, *_strides(q, k, v, do))
    with launch.on(do):
        kernels.backward_queries[(-(-queries // settled["BLOCK_M"]), batch * heads)](
            q, k, v, given, do, *rows, products, dq, *rest, **settled
        )
        kernels.backward_keys[(-(-k.shape[2] // settled["BLOCK_N"]), batch * k.shape[1])](
            q, k, v, given, do, *rows, products, dk, dv, *rest, **settled
        )
    return made


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _bytes(mask: Tensor | None, q: Tensor) -> Tensor:
    """The mask as bytes; where there is none something that is never read."""
    return q if mask is None else mask.contiguous().view(torch.uint8)


def _sizes(q: Tensor, k: Tensor) -> tuple[int, ...]:
    return q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3]


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(distance for x in tensors for distance in x.stride()[:3])


def _who_sees(mask: Tensor | None, settings: Settings) -> dict[str, int]:
    return {
        "CAUSAL": settings.causal,
        "WINDOW": settings.window,
        "CAPPED": settings.softcap > 0,
        "MASKED": mask is not None,
    }


def _plan(q: Tensor, k: Tensor, settings: Settings, blocks: str, side: str) -> dict[str, int]:
    """Sizes of the blocks and the options of a launch."""
    usual = _default(q.shape[0], *_sizes(q, k), launch.architecture(q.device))
    chosen = launch.named(settings.config, NAMES, usual)
    share = max(1, q.element_size() // 2)  # as many bytes in any dtype
    m, n = (max(16, chosen[f"{blocks}{x}"] // share) for x in "mn")
    width, warps = wide(q.shape[3]), chosen[f"{side}warps"]
    plan = {"BLOCK_M": m, "BLOCK_N": n, "WIDE": width, "num_warps": warps, "num_stages": chosen[f"{side}stages"]}
    # Left alone, ptxas spills some float32 to come down to 40 to 80 registers, for more blocks at a time.
    most, registers = (32, 128) if side else (8, 96)
    few = q.dtype == torch.float32 and sums(m, n, width, warps, backward=bool(side)) <= most
    return plan | (launch.at_most_registers(registers) if few else {})


def _backward_reference(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rows: Tensor,
    needs: list[bool], settings: Settings,
) -> tuple[Tensor, Tensor, Tensor, None]:  # fmt: skip
    causal, window, softcap, scale, _ = settings
    p, s = _shares(q, k, _seen_by(q, k, mask, causal, window), softcap, scale)
    dp = do @ _for_each_head(v, q).transpose(-1, -2)
    ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
    ds = ds * (1 - (s / softcap).square()) if softcap else ds
    grouped = (k.shape[0], k.shape[1], -1, *k.shape[2:])
    dk, dv = ((x.transpose(-1, -2) @ y).view(grouped).sum(2) for x, y in ((ds, q), (p, do)))
    return ds @ _for_each_head(k, q), dk, dv, None


_default = cached_default(default, "batch", "heads", "kv_heads", "queries", "keys", "width")
_node = Node(
    "attention",
    tensors=4,
    outputs=1,
    settings=Settings,
    reference=_reference,
    allocate=_allocate,
    forward=_forward,
    kept=lambda args, made: (*args[:4], made[1]),
    allocate_backward=_allocate_backward,
    backward=_backward,
    backward_reference=_backward_reference,
)


def _inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str = "") -> tuple[Tensor | None, ...]:
    source = torch.Generator("cpu").manual_seed(seed)
    sizes = [(dims["heads"], dims["queries"]), *[(dims["kv_heads"], dims["keys"])] * 2]
    made = [torch.randn(dims["batch"], heads, rows, dims["width"], generator=source) for heads, rows in sizes]
    mask = torch.rand(dims["batch"], dims["keys"], generator=source) < 0.8 if variant == "padded" else None
    return (*(x.to(device, dtype).requires_grad_() for x in made), None if mask is None else mask.to(device))


def _launch(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool = False, window: int = 0,
    softcap: float = 0.0, scale: float | None = None, config: Config | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:  # fmt: skip
    settings = Settings(causal, window, softcap, _scale(q, scale), launch.values(config, NAMES))
    with torch.no_grad():
        return _node.run_kernels(q, k, v, mask, settings)


def _moved_bytes(dims: Dims, itemsize: int, backward: bool) -> int:
    queries = dims["batch"] * dims["heads"] * dims["queries"] * dims["width"]
    keys = dims["batch"] * dims["kv_heads"] * dims["keys"] * dims["width"]
    # q, o, k, v; then q, do, dq and k, v, dk, dv.
    return (5 * queries + 6 * keys if backward else 2 * queries + 2 * keys) * itemsize


OPS = (
    Op(
        name="attention",
        formula="softmax(q @ k.T / sqrt(width)) @ v",
        dims=("queries", "keys", "batch", "heads", "kv_heads", "width"),
        space=space,
        default=default,
        inputs=_inputs,
        reference=reference,
        apply=attention,
        launch=_launch,
        moved_bytes=_moved_bytes,
        variants={
            "": {},
            "causal": {"causal": True},
            "window": {"causal": True, "window": 7},
            "softcap": {"causal": True, "softcap": 2.0},
            "padded": {},
        },
    ),
)
