"""A search that is replayed on a landscape, on whichever machine: each config that is timed is written down."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.search.benches import Replay
from tests.search.synthetic import rugged
from twinkle_tune.ops.space import Config
from twinkle_tune.outcome import Rejection
from twinkle_tune.search.record import SearchResult
from twinkle_tune.search.search import search

LANDSCAPE = rugged(1)
DEFAULT = LANDSCAPE.space.named([1, 1, 1, 1, 1, 1])


class Written(Replay):
    """Writes down the process and the config, when a timing begins and when it ends."""

    def __init__(self, folder: Path) -> None:
        super().__init__(LANDSCAPE, os.getpid())
        self._folder = folder

    def time_us(self, config: Config) -> float | Rejection:
        """As recorded, after a moment."""
        self._write("begins", config)
        time.sleep(0.2)
        found = super().time_us(config)
        if not isinstance(found, Rejection):
            self._write("timed", config)
        return found

    def _write(self, what: str, config: Config) -> None:
        line = json.dumps([what, os.getpid(), LANDSCAPE.space.in_order(config)]) + "\n"
        with (self._folder / f"{os.getpid()}.searched").open("a", encoding="utf-8") as file:
            file.write(line)


def set_up(folder: Path) -> None:
    """Of a worker of Ray's: whatever is searched is this landscape."""

    def tuned(call: Any, device: str, clock: Any, settings: Any, *, journal: Any, **_: Any) -> dict[str, SearchResult]:
        found = search(LANDSCAPE.space, Written(folder), settings, default=DEFAULT, journal=journal, name="forward")
        return {"forward": found}

    patch("twinkle_tune.fleet.searching.tuned", tuned).start()


def written(folder: Path) -> list[tuple[str, int, tuple[int, ...]]]:
    """What happened, the process, and the config."""
    lines = [line for path in sorted(folder.glob("*.searched")) for line in path.read_text().splitlines()]
    return [(what, process, tuple(config)) for what, process, config in map(json.loads, lines)]
