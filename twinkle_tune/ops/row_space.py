"""The configs of kernels that reduce rows, such as norms. What begins with ``back_`` concerns the backward alone."""

from __future__ import annotations

from twinkle_tune.ops.launch import next_power_of_2
from twinkle_tune.ops.space import Config, Dims, Parameter, Space

NAMES = ("rows", "warps", "block", "back_rows", "back_warps", "back_block", "back_stages", "back_programs")

_WARPS = (1, 2, 4, 8, 16, 32)
_BLOCKS = (0, 1024, 2048, 4096, 8192)
_BACK_THREADS = 640
"""Threads of the backward that a multiprocessor holds at 100 registers each: from sm_80 on all have 65536."""


def row_space(dims: Dims, most: int, back_most: int) -> Space:
    """The configs for a call of (rows, width); rows up to ``most`` and ``back_most`` wide are held in registers.

    ``rows`` rows a program, ``warps`` warps, ``block`` columns at a time (0: a whole row, held in registers). Backward:
    the same, ``back_stages`` stages of its loads, and ``back_programs`` programs for each multiprocessor.
    """
    width = next_power_of_2(dims["width"])

    def unfit(config: Config) -> str:
        return _unfit("", config, width, most, dims["rows"]) or _unfit("back_", config, width, back_most, dims["rows"])

    return Space(
        parameters=(
            Parameter(name="rows", values=(1, 2, 4, 8, 16)),
            Parameter(name="warps", values=_WARPS),
            Parameter(name="block", values=_BLOCKS),
            Parameter(name="back_rows", values=(1, 2, 4, 8)),
            Parameter(name="back_warps", values=_WARPS),
            Parameter(name="back_block", values=_BLOCKS),
            Parameter(name="back_stages", values=(1, 2, 3)),
            Parameter(name="back_programs", values=(1, 2, 4, 8)),
        ),
        unfit=unfit,
    )


def row_default(dims: Dims, architecture: int, most: int, back_most: int) -> Config:
    """The config for a call that nobody has tuned: about 16 elements a thread, 8 backward, rows together while narrow.

    It is the same for every architecture from sm_80 on: what limits it, registers and threads of a program, is.
    """
    width = next_power_of_2(dims["width"])
    together = max(1, min(1024 // width, 16, next_power_of_2(dims["rows"])))
    block = 0 if width <= most else 4096
    back_block = 0 if width <= back_most else 2048
    # Eight elements a thread: with sixteen some loops spill a few bytes on sm_80 and sm_89.
    back_warps = _warps(min(together, 8) * 2 * (back_block or width))
    return {
        "rows": together,
        "warps": _warps(together * (block or width)),
        "block": block,
        "back_rows": min(together, 8),
        "back_warps": back_warps,
        "back_block": back_block,
        "back_stages": 2 if not back_block and back_warps < 32 else 1,
        # As many as run at once: one more would wait for the others to end, and then run alone.
        "back_programs": 1 << (max(1, min(_BACK_THREADS // (32 * back_warps), 8)).bit_length() - 1),
    }


def _warps(elements: int) -> int:
    return max(1, min(32, elements // 512))


def _unfit(side: str, config: Config, width: int, most: int, rows: int) -> str:
    """Why one side's parameters do not go together; "" where they do. ``width`` is the next power of two."""
    together, warps, block = config[f"{side}rows"], config[f"{side}warps"], config[f"{side}block"]
    if block >= width:
        return f"{side}block {block} holds a whole row of {width}, which is {side}block 0"
    if not block and width > most:
        return f"a row of {width} does not fit into registers ({side}block 0)"
    if together > next_power_of_2(rows):
        return f"{side}rows {together} are more than the call's {rows}"
    elements = together * (block or width) / (32 * warps)
    if elements > 64:
        return f"{elements:.0f} elements for each {side}thread spill"
    if elements < 1 and warps > 1:
        return f"{side}threads without an element"
    if side and block and config["back_stages"] > 1:
        return "back_stages are for whole rows (back_block 0)"
    return ""
