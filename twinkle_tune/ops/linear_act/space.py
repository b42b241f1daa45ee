"""The configs of the product with an activation. What begins with ``back_`` concerns the backward alone."""

from __future__ import annotations

from twinkle_tune.ops.launch import next_power_of_2
from twinkle_tune.ops.space import MOST_SHARED, Config, Dims, Parameter, Space

NAMES = (
    "block_m", "block_n", "block_k", "group", "warps", "stages",
    "back_rows", "back_block", "back_warps", "back_programs",
)  # fmt: skip


def space(dims: Dims) -> Space:
    """The configs for a call of (rows, width, out).

    A program makes ``block_m`` by ``block_n`` results, ``block_k`` bfloat16 inputs (half as many float32) at a time,
    with ``warps`` warps and ``stages`` tiles on their way; ``group`` tiles down before the next column of tiles.
    Backward: ``back_rows`` by ``back_block`` elements at a time, ``back_programs`` programs for a block of columns.
    """

    def unfit(config: Config) -> str:
        return _unfit(config, dims) or _back_unfit(config, dims)

    return Space(
        parameters=(
            Parameter(name="block_m", values=(16, 32, 64, 128, 256)),
            Parameter(name="block_n", values=(16, 32, 64, 128, 256)),
            Parameter(name="block_k", values=(32, 64, 128)),
            Parameter(name="group", values=(1, 4, 8, 16)),
            Parameter(name="warps", values=(1, 2, 4, 8)),
            Parameter(name="stages", values=(1, 2, 3, 4)),
            Parameter(name="back_rows", values=(1, 2, 4, 8, 16)),
            Parameter(name="back_block", values=(64, 128, 256, 512, 1024)),
            Parameter(name="back_warps", values=(1, 2, 4, 8)),
            Parameter(name="back_programs", values=(1, 2, 4, 8, 16, 32, 64, 128)),
        ),
        unfit=unfit,
    )


def default(dims: Dims, architecture: int) -> Config:
    """The config for a call that nobody has tuned: tiles of 128 by 128, narrower where there are fewer rows."""
    rows = next_power_of_2(dims["rows"])
    block_m = max(16, min(rows, 128))
    block_n = max(16, min(next_power_of_2(dims["out"]), 128 if block_m >= 64 else 64))
    tile = block_m * block_n
    block = max(64, min(next_power_of_2(dims["out"]), 256))
    together = max(1, min(rows, 8))
    return {
        "block_m": block_m,
        "block_n": block_n,
        # With 64 float32 inputs at a time 128 by 128 sums spill on sm_89.
        "block_k": 32 if architecture == 89 else 64,
        "group": 8,
        "warps": 8 if tile >= 128 * 128 else min(4, tile // 128),
        "stages": 3,
        "back_rows": together,
        "back_block": block,
        "back_warps": max(1, min(4, together * block // 256)),
        # About two programs for each of 132 multiprocessors.
        "back_programs": max(1, min(128, rows // together, next_power_of_2(264 * block // max(dims["out"], 1)))),
    }


def _unfit(config: Config, dims: Dims) -> str:
    m, n, k, warps = (config[name] for name in ("block_m", "block_n", "block_k", "warps"))
    if m > max(16, next_power_of_2(dims["rows"])):
        return f"block_m {m} is more than the call's {dims['rows']} rows"
    if n > max(16, next_power_of_2(dims["out"])):
        return f"block_n {n} is more than the call's {dims['out']} outputs"
    if m * n > 128 * 32 * warps:
        return f"{m * n // (32 * warps)} sums for each thread spill"
    if m * n < 128 * warps:
        return f"{m * n // (32 * warps)} sums for each thread leave most of it idle"
    shared = 2 * (m + n) * k * config["stages"]
    return f"{shared} bytes of tiles do not fit into shared memory" if shared > MOST_SHARED else ""


def _back_unfit(config: Config, dims: Dims) -> str:
    rows, block, warps = config["back_rows"], config["back_block"], config["back_warps"]
    if rows > next_power_of_2(dims["rows"]):
        return f"back_rows {rows} are more than the call's {dims['rows']}"
    if block > max(64, next_power_of_2(dims["out"])):
        return f"back_block {block} is more than the call's {dims['out']} outputs"
    if rows * block > 32 * 32 * warps:
        return f"{rows * block // (32 * warps)} elements for each back_thread spill"
    if rows * block < 32 * warps:
        return "back_threads without an element"
    most = max(1, next_power_of_2(dims["rows"]) // rows)
    return f"back_programs {config['back_programs']} have no rows" if config["back_programs"] > most else ""
