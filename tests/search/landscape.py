"""Landscapes: the time of every config of a space, recorded on a GPU or made up, for a search to be replayed on."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from twinkle_tune.ops.space import Config, Parameter, Space

FOLDER = Path(__file__).parent / "landscapes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """A space, and the time of each of its configs in microseconds; None for one that does not run."""

    name: str
    space: Space
    times_us: Mapping[tuple[int, ...], float | None]

    @property
    def best_us(self) -> float:
        """The time of the exhaustive best."""
        return min(time for time in self.times_us.values() if time is not None)

    @property
    def size(self) -> int:
        """How many configs there are."""
        return len(self.times_us)

    def time_us(self, config: Config) -> float | None:
        """Its time without noise."""
        return self.times_us[tuple(self.space.in_order(config))]

    def regret(self, config: Config) -> float:
        """How much more time it takes than the best, as a share; infinite for one that does not run."""
        time_us = self.time_us(config)
        return math.inf if time_us is None else time_us / self.best_us - 1


def recorded(name: str) -> Landscape:
    """One of the files in landscapes/: "convolution-A100" or "dedispersion-A4000". Its median times in us."""
    with gzip.open(FOLDER / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [column for column in rows[0] if column not in ("median_ms", "first_call_ms")]
    times_us = {
        tuple(int(row[name]) for name in names): float(row["median_ms"]) * 1e3 if row["median_ms"] else None
        for row in rows
    }
    parameters = tuple(
        Parameter(name=name, values=tuple(sorted({values[i] for values in times_us}))) for i, name in enumerate(names)
    )

    def unfit(config: Config) -> str:
        return "" if tuple(config[name] for name in names) in times_us else "not in the recorded space"

    return Landscape(name=name, space=Space(parameters=parameters, unfit=unfit), times_us=times_us)
