"""The configs of attention. What begins with ``back_`` concerns the backward alone."""

from __future__ import annotations

from twinkle_tune.ops.launch import next_power_of_2
from twinkle_tune.ops.space import MOST_SHARED, Config, Dims, Parameter, Space

NAMES = ("block_m", "block_n", "warps", "stages", "back_m", "back_n", "back_warps", "back_stages")


def space(dims: Dims) -> Space:
    """The configs for a call of (queries, keys, batch, heads, kv_heads, width).

    ``block_m`` queries a program and ``block_n`` keys at a time, of two bytes an element (of four half as many), with
    ``warps`` warps and ``stages`` blocks of keys on their way. ``back_m`` and ``back_n`` are the same backward.
    """
    width = wide(dims["width"])

    def unfit(config: Config) -> str:
        return _unfit("block_", "", config, width) or _unfit("back_", "back_", config, width)

    return Space(
        parameters=(
            Parameter(name="block_m", values=(16, 32, 64, 128)),
            Parameter(name="block_n", values=(16, 32, 64, 128)),
            Parameter(name="warps", values=(1, 2, 4, 8)),
            Parameter(name="stages", values=(1, 2, 3)),
            Parameter(name="back_m", values=(16, 32, 64, 128)),
            Parameter(name="back_n", values=(16, 32, 64, 128)),
            Parameter(name="back_warps", values=(1, 2, 4, 8)),
            Parameter(name="back_stages", values=(1, 2, 3)),
        ),
        unfit=unfit,
    )


def default(dims: Dims, architecture: int) -> Config:
    """The config for a call that nobody has tuned: fewer rows at a time where they are wider."""
    width = wide(dims["width"])
    block_m = min(64, max(16, next_power_of_2(dims["queries"])))
    return {
        "block_m": block_m,
        "block_n": 64 if width <= 128 else 32,
        "warps": 8 if block_m * width >= 64 * 128 else 4,
        "stages": 2 if width <= 128 else 1,
        "back_m": 32 if width <= 128 else 16,
        "back_n": 64 if width == 128 else 32,
        "back_warps": 4 if width <= 32 else 8,
        "back_stages": 1,
    }


def wide(width: int) -> int:
    """Columns of a tile: the next power of two, at least 16."""
    return max(16, next_power_of_2(width))


def sums(m: int, n: int, width: int, warps: int, *, backward: bool) -> int:
    """Sums that a thread holds: forward of m rows; backward two of n rows, or one of m."""
    return max(2 * n * width if backward else 0, m * width, m * n) // (32 * warps)


def _unfit(blocks: str, side: str, config: Config, width: int) -> str:
    m, n, warps = config[f"{blocks}m"], config[f"{blocks}n"], config[f"{side}warps"]
    held = sums(m, n, width, warps, backward=bool(side))
    if held > 160:
        return f"{held} sums for each {side}thread spill"
    if m * n < 32 * warps:
        return f"{side}threads without a score"
    shared = 2 * width * (m + 2 * n * config[f"{side}stages"])
    return f"{shared} bytes of {side}tiles do not fit into shared memory" if shared > MOST_SHARED else ""
