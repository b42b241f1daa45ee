"""The sizes that the ops are tried at, small enough for Triton's interpreter. An op without an entry fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from twinkle_tune.ops.op import Op
from twinkle_tune.ops.space import Config, Dims


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What an op is tried at.

    Attributes:
        usual: in every dtype and layout.
        odd: single rows, sizes that are no powers of two.
        tiny: with too few elements for the parity rule.
        far: two-dimensional, of four rows, to be laid 2^30 elements apart; None where it cannot be.
        changed: what is changed in the default config, and the sizes to try that at.
        batched: whether the first input may have another number of dimensions, with the others as they are.
    """

    usual: Dims
    odd: tuple[Dims, ...]
    tiny: tuple[Dims, ...] = field(default=())
    far: Dims | None = None
    changed: tuple[tuple[Dims, Mapping[str, int]], ...] = field(default=())
    batched: bool = True

    def configs(self, op: Op) -> Iterator[tuple[Dims, Config]]:
        """Sizes and configs off the default."""
        for dims, change in self.changed:
            yield dims, {**op.default(dims, 90), **change}


_ROWS_AND_WIDTHS = tuple(
    {"rows": rows, "width": width} for rows, width in ((1, 100), (7, 63), (6, 1000), (5, 4097), (40, 8), (5, 33))
)

_NORM = Sizes(
    usual={"rows": 8, "width": 96},
    odd=_ROWS_AND_WIDTHS,
    tiny=({"rows": 3, "width": 1},),
    far={"rows": 4, "width": 40},
    changed=(
        ({"rows": 3, "width": 1500}, {"block": 1024, "back_block": 1024}),
        ({"rows": 7, "width": 1100}, {"block": 1024, "rows": 4, "back_block": 1024, "back_rows": 2}),
        ({"rows": 20, "width": 40}, {"rows": 16, "back_rows": 1, "back_programs": 1, "back_stages": 2}),
    ),
)
_GATED = Sizes(
    usual={"rows": 6, "width": 96},
    odd=_ROWS_AND_WIDTHS,
    tiny=({"rows": 3, "width": 1},),
    far={"rows": 4, "width": 40},
    changed=(({"rows": 5, "width": 300}, {"rows": 2, "block": 128, "back_rows": 4, "back_block": 256}),),
)

SIZES: Mapping[str, Sizes] = {
    "rms_norm": _NORM,
    "fused_add_rms_norm": _NORM,
    "layer_norm": _NORM,
    "silu_and_mul": _GATED,
    "gelu_and_mul": _GATED,
    "rope": Sizes(
        batched=False,
        usual={"tokens": 4, "heads": 2, "kv_heads": 1, "width": 16, "turned": 16},
        tiny=({"tokens": 1, "heads": 1, "kv_heads": 1, "width": 2, "turned": 2},),
        odd=(
            {"tokens": 1, "heads": 3, "kv_heads": 1, "width": 20, "turned": 12},
            {"tokens": 7, "heads": 2, "kv_heads": 1, "width": 13, "turned": 6},
        ),
        changed=(
            (
                {"tokens": 7, "heads": 6, "kv_heads": 3, "width": 24, "turned": 18},
                {"tokens": 2, "heads": 4, "back_tokens": 4, "back_heads": 2},
            ),
        ),
    ),
    "cross_entropy": Sizes(
        far={"rows": 4, "classes": 40},
        batched=False,
        usual={"rows": 12, "classes": 96},
        odd=({"rows": 1, "classes": 1000}, {"rows": 7, "classes": 63}, {"rows": 5, "classes": 2}),
        tiny=({"rows": 3, "classes": 1},),
        changed=(
            ({"rows": 7, "classes": 2300}, {"block": 512, "splits": 4, "back_block": 1024}),
            ({"rows": 9, "classes": 1100}, {"block": 512, "splits": 1, "back_block": 512}),
        ),
    ),
    "attention": Sizes(
        batched=False,
        usual={"batch": 1, "heads": 2, "kv_heads": 1, "queries": 9, "keys": 12, "width": 16},
        odd=(
            {"batch": 2, "heads": 2, "kv_heads": 2, "queries": 1, "keys": 20, "width": 24},
            {"batch": 1, "heads": 3, "kv_heads": 1, "queries": 35, "keys": 35, "width": 40},
        ),
        changed=(
            (
                {"batch": 1, "heads": 2, "kv_heads": 1, "queries": 40, "keys": 70, "width": 16},
                {"block_m": 16, "block_n": 32, "back_m": 16, "back_n": 32},
            ),
        ),
    ),
    "linear_act": Sizes(
        usual={"rows": 8, "width": 24, "out": 40},
        odd=(
            {"rows": 1, "width": 100, "out": 33},
            {"rows": 37, "width": 7, "out": 5},
            {"rows": 70, "width": 130, "out": 150},
        ),
        far={"rows": 4, "width": 40, "out": 24},
        changed=(
            (
                {"rows": 70, "width": 40, "out": 100},
                {"block_m": 16, "block_n": 32, "block_k": 32, "group": 4, "back_rows": 4, "back_programs": 2},
            ),
            ({"rows": 70, "width": 90, "out": 70}, {"block_m": 32, "block_n": 64, "group": 1, "back_block": 64}),
        ),
    ),
    "fused_linear_cross_entropy": Sizes(
        batched=False,
        # Eight of ten rows count: with label smoothing every element holds a constant, which is rounded before it is
        # divided by their number here and after it in the formula. By a power of two that is the same.
        usual={"rows": 10, "width": 24, "classes": 96},
        odd=({"rows": 1, "width": 7, "classes": 1000}, {"rows": 5, "width": 33, "classes": 63}),
        changed=(({"rows": 21, "width": 16, "classes": 70}, {"chunk": 8}),),
    ),
}
