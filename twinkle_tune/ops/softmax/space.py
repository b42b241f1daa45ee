"""The configs of softmax's kernels. What begins with ``back_`` concerns the backward alone."""

from __future__ import annotations

from twinkle_tune.ops.launch import next_power_of_2
from twinkle_tune.ops.row_space import unfit_rows
from twinkle_tune.ops.space import Config, Dims, Parameter, Space

NAMES = ("rows", "block", "warps", "back_rows", "back_block", "back_warps")

_WIDEST = {"": 32768, "back_": 16384}
"""Widest row that a program holds in registers; backward there are two of them."""
_VALUES = {"rows": (1, 2, 4, 8, 16), "block": (0, 1024, 2048, 4096, 8192), "warps": (1, 2, 4, 8, 16, 32)}


def space(dims: Dims) -> Space:
    """The configs for a call of (rows, width).

    ``rows`` rows a program, ``block`` columns at a time (0: a whole row, held in registers), ``warps`` warps.
    """
    width = next_power_of_2(dims["width"])

    def unfit(config: Config) -> str:
        reasons = (unfit_rows(side, config, width, most, dims["rows"]) for side, most in _WIDEST.items())
        return next(filter(None, reasons), "")

    return Space(
        parameters=tuple(Parameter(name=side + name, values=_VALUES[name]) for side in _WIDEST for name in _VALUES),
        unfit=unfit,
    )


def default(dims: Dims, architecture: int) -> Config:
    """The config for a call that nobody has tuned: about 16 elements a thread, rows together while they are narrow."""
    width = next_power_of_2(dims["width"])
    together = max(1, min(1024 // width, 16, next_power_of_2(dims["rows"])))
    config: dict[str, int] = {}
    for side, widest in _WIDEST.items():
        block = 0 if width <= widest else 4096
        warps = max(1, min(32, together * (block or width) // 512))
        config |= {f"{side}rows": together, f"{side}block": block, f"{side}warps": warps}
    return config
