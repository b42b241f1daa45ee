"""The configs of cross entropy's kernels. What begins with ``back_`` concerns the backward alone."""

from __future__ import annotations

from twinkle_tune.ops.launch import next_power_of_2
from twinkle_tune.ops.space import Config, Dims, Parameter, Space

NAMES = ("block", "splits", "warps", "back_block", "back_warps")

BLOCKS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
WARPS = (2, 4, 8, 16, 32)
_ENOUGH_PROGRAMS = 512
"""More than a GPU of today runs at once of programs that are as large as these."""


def space(dims: Dims) -> Space:
    """The configs for a call of (rows, classes).

    ``block`` classes at a time, ``splits`` programs a row going forward, ``warps`` warps.
    """

    def unfit(config: Config) -> str:
        parts = -(-dims["classes"] // config["block"])
        if config["splits"] > next_power_of_2(parts):
            return f"splits {config['splits']} of {parts} blocks"
        if config["splits"] > 1 and dims["rows"] * config["splits"] > 2 * _ENOUGH_PROGRAMS:
            return f"splits {config['splits']} of {dims['rows']} rows: there are programs enough without"
        return unfit_block("", config, dims) or unfit_block("back_", config, dims)

    return Space(
        parameters=(
            Parameter(name="block", values=BLOCKS),
            Parameter(name="splits", values=(1, 2, 4, 8, 16, 32)),
            Parameter(name="warps", values=WARPS),
            Parameter(name="back_block", values=BLOCKS),
            Parameter(name="back_warps", values=WARPS),
        ),
        unfit=unfit,
    )


def default(dims: Dims, architecture: int) -> Config:
    """The config for a call that nobody has tuned: 32 elements a thread, rows in parts while there are few rows."""
    block, warps = default_block(dims)
    splits = 1
    while splits < 32 and dims["rows"] * splits < _ENOUGH_PROGRAMS // 2 and splits * block < dims["classes"]:
        splits *= 2
    return {"block": block, "splits": splits, "warps": warps, "back_block": block, "back_warps": warps}


def default_block(dims: Dims) -> tuple[int, int]:
    """Classes at a time, and warps for them."""
    block = max(BLOCKS[0], min(8192, next_power_of_2(dims["classes"])))
    return block, max(2, block // 1024)


def unfit_block(side: str, config: Config, dims: Dims) -> str:
    """Why so many classes at a time by so many warps are not worth a try; "" if they are."""
    block, warps = config[f"{side}block"], config[f"{side}warps"]
    if block > max(BLOCKS[0], next_power_of_2(dims["classes"])):
        return f"{side}block {block} is more than the call's {dims['classes']} classes"
    elements = block // (32 * warps)
    if elements > 64:
        return f"{elements} elements for each {side}thread spill"
    if elements < 4:
        return f"{elements} elements for each {side}thread are less than one wide load"
    return ""
