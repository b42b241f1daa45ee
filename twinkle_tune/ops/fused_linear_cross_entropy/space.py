"""The configs of the linear layer and its cross entropy. The backward has none: it only multiplies."""

from __future__ import annotations

from twinkle_tune.ops.cross_entropy.space import BLOCKS, WARPS, default_block, unfit_block
from twinkle_tune.ops.launch import next_power_of_2
from twinkle_tune.ops.space import Config, Dims, Parameter, Space

NAMES = ("chunk", "block", "warps")

_CHUNKS = (256, 512, 1024, 2048, 4096, 8192)


def space(dims: Dims) -> Space:
    """The configs for a call of (rows, width, classes).

    ``chunk`` rows whose logits are in memory at a time, ``block`` classes at a time, ``warps`` warps.
    """

    def unfit(config: Config) -> str:
        if config["chunk"] > max(_CHUNKS[0], next_power_of_2(dims["rows"])):
            return f"chunk {config['chunk']} is more than the call's {dims['rows']} rows"
        if config["chunk"] > max(_CHUNKS[0], 2 * next_power_of_2(dims["width"])):
            return f"the logits of {config['chunk']} rows are far larger than the weight"
        return unfit_block("", config, dims)

    return Space(
        parameters=(
            Parameter(name="chunk", values=_CHUNKS),
            Parameter(name="block", values=BLOCKS),
            Parameter(name="warps", values=WARPS),
        ),
        unfit=unfit,
    )


def default(dims: Dims, architecture: int) -> Config:
    """The config for a call that nobody has tuned: a chunk's logits are as large as the weight."""
    block, warps = default_block(dims)
    chunk = min(next_power_of_2(dims["width"]), next_power_of_2(dims["rows"]), 4096)
    return {"chunk": max(_CHUNKS[0], chunk), "block": block, "warps": warps}
