"""Made-up spaces of 500 configs and more whose times are known everywhere: models of kernels, and a rugged field.

The models are no prediction of any GPU. They have what makes spaces hard to search: limits that cut configs off,
parameters that matter only together, steps where one more block no longer fits on a processor, and small unevenness
that nothing explains.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

from tests.search.landscape import Landscape
from twinkle_tune.ops.space import Config, Parameter, Space

_SHARED_BYTES = 232_448


def matmul() -> Landscape:
    """A tiled product of 4096 x 4096 by 4096 x 4096: 8,280 configs, of which 7,515 run."""
    space = Space(
        parameters=(
            Parameter(name="block_m", values=(16, 32, 64, 128, 256)),
            Parameter(name="block_n", values=(16, 32, 64, 128, 256)),
            Parameter(name="block_k", values=(16, 32, 64, 128)),
            Parameter(name="warps", values=(1, 2, 4, 8, 16)),
            Parameter(name="stages", values=(1, 2, 3, 4, 5, 6)),
            Parameter(name="group", values=(1, 4, 8)),
        ),
        unfit=lambda c: "too little work for a warp" if c["block_m"] * c["block_n"] < 128 * c["warps"] else "",
    )

    def time_us(config: Config) -> float | None:
        m, n, k, warps, stages = (config[p] for p in ("block_m", "block_n", "block_k", "warps", "stages"))
        shared = 2 * (m + n) * k * stages
        if shared > _SHARED_BYTES:
            return None
        registers = m * n / (32 * warps) + 40
        fit = max(1, min(_SHARED_BYTES // shared, 65_536 // int(min(registers, 255) * 32 * warps), 8))
        waves = math.ceil((4096 / m) * (4096 / n) / (132 * fit))
        hidden = 1 - math.pow(0.5, stages * fit * min(1.0, k / 64) / 1.5)
        issue = math.sqrt(min(1.0, warps * fit / 8))
        moved = 1 / m + 1 / n + (0.002 if config["group"] == 1 else 0.0)
        per_wave = fit * m * n * 4096 * max(1 / (issue * hidden), 90 * moved * 2 / hidden)
        return waves * per_wave * (1 + max(0.0, registers - 230) / 60) / 4e7

    return _table("synthetic matmul", space, time_us, unevenness=0.03)


def row_kernel() -> Landscape:
    """A memory-bound pass over 2048 rows of 4096: 1,260 configs, 1,200 run; an easy space."""
    space = Space(
        parameters=(
            Parameter(name="block", values=(128, 256, 512, 1024, 2048, 4096, 8192)),
            Parameter(name="rows", values=(1, 2, 4, 8, 16)),
            Parameter(name="warps", values=(1, 2, 4, 8, 16, 32)),
            Parameter(name="stages", values=(1, 2, 3)),
            Parameter(name="persistent", values=(0, 1)),
        ),
    )

    def time_us(config: Config) -> float | None:
        block, rows, warps = config["block"], config["rows"], config["warps"]
        held = block * rows / (32 * warps)
        if held > 512:
            return None
        loops = math.ceil(4096 / block)
        wasted = loops * block / 4096
        in_flight = min(1.0, held * warps * 32 * 2 * max(1, 64 // warps) / 40_000)
        in_flight = math.sqrt(math.sqrt(in_flight))
        spilled = 1 + max(0.0, held - 128) / 100
        launch = 3.0 if config["persistent"] else 3.0 + 2048 / rows / 1000
        again = 1.0 if loops == 1 else 1.25 - 0.03 * config["stages"]
        return launch + 12.0 * wasted * spilled * again / in_flight

    return _table("synthetic row kernel", space, time_us, unevenness=0.01)


def rugged(seed: int) -> Landscape:
    """Effects of each parameter and of each pair of neighbours drawn at random: 2,568 configs, 2,312 run."""
    sizes = (6, 5, 4, 4, 3, 2)
    draw = random.Random(seed)
    space = Space(
        parameters=tuple(Parameter(name=f"p{i}", values=tuple(range(size))) for i, size in enumerate(sizes)),
        unfit=lambda c: "out of bounds" if (c["p0"] + 2 * c["p1"] + c["p2"]) % 9 == 0 else "",
    )
    alone = [[_walk(draw, 0.12) for _ in range(size)] for size in sizes]
    pairs = [[[draw.gauss(0, 0.15) for _ in range(b)] for _ in range(a)] for a, b in pairwise(sizes)]

    def time_us(config: Config) -> float | None:
        at = space.in_order(config)
        if (7 * at[1] + 3 * at[2] + at[4]) % 11 == 0:
            return None
        log = sum(effect[i] for effect, i in zip(alone, at, strict=True))
        log += sum(table[i][j] for table, (i, j) in zip(pairs, pairwise(at), strict=True))
        return 100 * math.exp(log)

    return _table(f"synthetic rugged {seed}", space, time_us, unevenness=0.04)


def _walk(draw: random.Random, step: float) -> float:
    return draw.gauss(0, step) * 2


def _table(name: str, space: Space, time_us: Callable[[Config], float | None], *, unevenness: float) -> Landscape:
    draw = random.Random(name)
    times: dict[tuple[int, ...], float | None] = {}
    for config in space.configs():
        exact = time_us(config)
        times[tuple(space.in_order(config))] = None if exact is None else exact * math.exp(draw.gauss(0, unevenness))
    return Landscape(name=name, space=space, times_us=times)
