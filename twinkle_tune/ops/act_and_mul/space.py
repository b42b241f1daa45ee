"""The configs of the gated activations' kernels. What begins with ``back_`` concerns the backward alone."""

from __future__ import annotations

from twinkle_tune.ops.launch import next_power_of_2
from twinkle_tune.ops.space import Config, Dims, Parameter, Space

NAMES = ("rows", "block", "warps", "back_rows", "back_block", "back_warps")

_BLOCKS = (128, 256, 512, 1024, 2048, 4096)
_ROWS = (1, 2, 4, 8, 16)
_WARPS = (1, 2, 4, 8, 16)


def space(dims: Dims) -> Space:
    """The configs for a call of (rows, width): a program takes ``rows`` by ``block`` elements with ``warps`` warps."""
    width = max(next_power_of_2(dims["width"]), _BLOCKS[0])

    def unfit(config: Config) -> str:
        return next(filter(None, (_unfit(side, config, width, dims["rows"]) for side in ("", "back_"))), "")

    return Space(
        parameters=tuple(
            Parameter(name=f"{side}{name}", values=values)
            for side in ("", "back_")
            for name, values in (("rows", _ROWS), ("block", _BLOCKS), ("warps", _WARPS))
        ),
        unfit=unfit,
    )


def default(dims: Dims, architecture: int) -> Config:
    """The config for a call that nobody has tuned: 8 elements a thread forward, 8 backward, where three are read."""
    block = min(max(next_power_of_2(dims["width"]), _BLOCKS[0]), 1024)
    rows = max(1, min(1024 // block, _ROWS[-1], next_power_of_2(dims["rows"])))
    warps = max(1, rows * block // 256)
    return {
        "rows": rows,
        "block": block,
        "warps": warps,
        "back_rows": rows,
        "back_block": block,
        "back_warps": warps,
    }


def _unfit(side: str, config: Config, width: int, rows: int) -> str:
    together, block, warps = (config[f"{side}{name}"] for name in ("rows", "block", "warps"))
    if block > width:
        return f"{side}block {block} is more than a row of {width}"
    if together > next_power_of_2(rows):
        return f"{side}rows {together} are more than the call's {rows}"
    elements = together * block / (32 * warps)
    if elements > 32:
        return f"{elements:.0f} elements for each {side}thread spill"
    if elements < 1:
        return f"{side}threads without an element"
    return ""
