"""The configs of the rotary kernel. What begins with ``back_`` concerns the backward alone."""

from __future__ import annotations

from twinkle_tune.ops.launch import next_power_of_2
from twinkle_tune.ops.space import Config, Dims, Parameter, Space

NAMES = ("tokens", "heads", "warps", "back_tokens", "back_heads", "back_warps")

_SIDES = ("", "back_")
_VALUES = {"tokens": (1, 2, 4, 8, 16), "heads": (1, 2, 4, 8, 16, 32, 64), "warps": (1, 2, 4, 8, 16)}


def space(dims: Dims) -> Space:
    """The configs for a call of (tokens, heads, kv_heads, width, turned).

    ``tokens`` tokens a program, whose cos and sin it holds, ``heads`` heads at a time, ``warps`` warps.
    """
    most_heads = next_power_of_2(max(dims["heads"], dims["kv_heads"]))
    columns = next_power_of_2(max(dims["turned"], dims["width"] - dims["turned"]))

    def unfit(config: Config) -> str:
        return next(filter(None, (_unfit(side, config, dims["tokens"], most_heads, columns) for side in _SIDES)), "")

    return Space(
        parameters=tuple(Parameter(name=side + name, values=_VALUES[name]) for side in _SIDES for name in _VALUES),
        unfit=unfit,
    )


def default(dims: Dims, architecture: int) -> Config:
    """The config for a call that nobody has tuned: tiles of 2048 elements, of one token where its heads fill them."""
    columns = next_power_of_2(max(dims["turned"], dims["width"] - dims["turned"]))
    most_heads = next_power_of_2(max(dims["heads"], dims["kv_heads"]))
    heads = max(1, min(most_heads, 2048 // columns, 64))
    # A token a program while there are too few tokens to fill the GPU.
    tokens = max(1, min(2048 // (columns * heads), next_power_of_2(dims["tokens"]) // 1024, 16))
    # By the static checks 16 elements a thread spill on sm_100 where columns are interleaved, 8 do not.
    warps = max(1, min(8, tokens * heads * columns // (256 if 100 <= architecture < 120 else 512)))
    return {side + name: value for side in _SIDES for name, value in zip(_VALUES, (tokens, heads, warps), strict=True)}


def _unfit(side: str, config: Config, all_tokens: int, most_heads: int, columns: int) -> str:
    tokens, heads, warps = (config[side + name] for name in _VALUES)
    if tokens > next_power_of_2(all_tokens):
        return f"{side}tokens {tokens} are more than the call's {all_tokens}"
    if heads > most_heads:
        return f"{side}heads {heads} are more than the call has"
    elements = tokens * heads * columns / (32 * warps)
    # Beside a tile there are four of cos and sin.
    if elements > 64 or tokens * columns / (32 * warps) > 16:
        return f"{elements:.0f} elements for each {side}thread, and its cos and sin, spill"
    if elements < 1 and warps > 1:
        return f"{side}threads without an element"
    return ""
