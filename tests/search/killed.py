"""A search that is slow enough to be killed: ``python -m tests.search.killed JOURNAL LOG``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.search.benches import Replay
from tests.search.synthetic import rugged
from twinkle_tune.ops.space import Config
from twinkle_tune.outcome import Rejection
from twinkle_tune.search.record import SearchSettings
from twinkle_tune.search.search import search


class Slow(Replay):
    """Writes down each config that it times, and takes 20 ms for it."""

    def time_us(self, config: Config) -> float | Rejection:
        """As recorded, without noise."""
        exact = self.landscape.time_us(config)
        if exact is None:
            return Rejection(stage="first call", reason="does not run")
        with Path(sys.argv[2]).open("a", encoding="utf-8") as log:
            log.write(f"{self.landscape.space.in_order(config)}\n")
        time.sleep(0.02)
        return exact


if __name__ == "__main__":
    landscape = rugged(1)
    search(
        landscape.space,
        Slow(landscape, 0),
        SearchSettings(budget=40),
        default=landscape.space.named([1, 1, 1, 1, 1, 1]),
        journal=Path(sys.argv[1]),
    )
