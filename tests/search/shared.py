"""Four workers on one study beside one worker alone, replayed on landscapes: what they find with as many timings.

``python -m tests.search.shared`` writes reports/search-shared.{json,md}. The workers are threads, each with its own
handle of one journal file and a bench of its own, on which a timing takes :data:`TIMING_S`: they claim, time and finish
as their turns come, as on four machines. It measures no GPU.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.page import made, made_line, write
from tests.search.benches import Replay
from tests.search.landscape import Landscape
from tests.search.replay import anyone, landscapes
from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.ops.space import Config
from twinkle_tune.outcome import Rejection
from twinkle_tune.search.record import SearchResult, SearchSettings, SharedStudy
from twinkle_tune.search.search import search

WORKERS = 4
BUDGET = 60
SEEDS = 30
MORE = 4
"""So many times as many seeds where the median of the first is above the goal, and its interval is not."""
GOAL = 0.02
"""So much slower than the one alone, in the median over the seeds, the four may end."""
TIMING_S = 0.03
FOLDER = Path("reports")


class Timed(Replay):
    """A replay on which a timing takes a while, so that others are at work meanwhile."""

    def time_us(self, config: Config) -> float | Rejection:
        """The recorded time with noise."""
        found = super().time_us(config)
        time.sleep(TIMING_S)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One seed: what one worker alone found, and what four found together.

    Attributes:
        alone: regret of its winner (0.05: 5% slower than the exhaustive best).
        shared: the mean regret of the four's winners.
        timings: of each of the four.
        twice: configs that were timed more than once by them.
    """

    alone: float
    shared: float
    timings: tuple[int, ...]
    twice: int


def pair(landscape: Landscape, seed: int, budget: int = BUDGET, workers: int = WORKERS) -> Pair:
    """Search with one worker, and with several."""
    settings, default = SearchSettings(budget=budget, seed=seed), anyone(landscape, seed)
    one = search(landscape.space, Replay(landscape, seed), settings, default=default)
    benches = [Timed(landscape, 1000 * (worker + 1) + seed) for worker in range(workers)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as threads:

        def work(worker: int) -> SearchResult:
            study = SharedStudy(place=str(Path(folder, "study")), worker=str(worker), workers=workers)
            return search(landscape.space, benches[worker], settings, default=default, journal=study)

        results = list(threads.map(work, range(workers)))
    timed = [tuple(landscape.space.in_order(config)) for bench in benches for config in bench.timed]
    return Pair(
        alone=_regret(landscape, one),
        shared=statistics.fmean(_regret(landscape, result) for result in results),
        timings=tuple(len(bench.timed) for bench in benches),
        twice=len(timed) - len(set(timed)),
    )


def _regret(landscape: Landscape, result: SearchResult) -> float:
    return math.inf if result.config is None else landscape.regret(result.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One landscape over all seeds, or all landscapes.

    Attributes:
        alone, shared: regret, median of the pairs.
        loss: by how much slower the four's winner is than the one's, median of the pairs.
        low, high: hold that median with 95% confidence.
        most_timings: of the busiest of the four, median.
        total_timings: of the four together, at most.
        twice: configs that the four timed twice.
    """

    landscape: str
    seeds: int
    alone: float
    shared: float
    loss: float
    low: float
    high: float
    most_timings: float
    total_timings: int
    twice: int


def row(name: str, pairs: Sequence[Pair]) -> Row:
    """What the pairs come to."""
    ratio = paired_ratio([1 + each.shared for each in pairs], [1 + each.alone for each in pairs])
    return Row(
        landscape=name,
        seeds=len(pairs),
        alone=statistics.median(each.alone for each in pairs),
        shared=statistics.median(each.shared for each in pairs),
        loss=ratio.ratio - 1,
        low=ratio.low - 1,
        high=ratio.high - 1,
        most_timings=statistics.median(max(each.timings) for each in pairs),
        total_timings=max(sum(each.timings) for each in pairs),
        twice=sum(each.twice for each in pairs),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay everything, write both files, and fail where the four lose more than they may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    asked = parser.parse_args(arguments)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # which searches in threads would put back for each other
    rows, first, began = [], list[Row](), time.monotonic()
    pairs = list[Pair]()
    for landscape in landscapes():
        found = [pair(landscape, seed) for seed in range(asked.seeds)]
        pairs += found
        told = row(landscape.name, found)
        if told.loss > GOAL >= told.low:
            first.append(told)
            told = row(landscape.name, [pair(landscape, seed) for seed in range(asked.seeds, MORE * asked.seeds)])
        rows.append(told)
        print(rows[-1], flush=True)
    rows.append(row("all", pairs))
    met = rows[-1].loss <= GOAL and all(
        each.low <= GOAL and each.twice == 0 and each.most_timings <= BUDGET / WORKERS for each in rows
    )
    seconds = round(time.monotonic() - began)
    facts = made("cpu")
    data = {
        **facts,
        "seeds": asked.seeds,
        "seconds": seconds,
        "met": met,
        "rows": [asdict(each) for each in rows],
    }
    data["first"] = [asdict(each) for each in first]
    write(asked.out, "search-shared", data, _page(made_line(facts), rows, first))
    return 0 if met else 1


def _page(where: str, rows: Sequence[Row], first: Sequence[Row]) -> list[str]:
    return [
        "# One search, four workers",
        "",
        "Made by `python -m tests.search.shared`: four workers share a study in a journal file and a budget of",
        f"{BUDGET} timings, {BUDGET // WORKERS} each, beside one worker that has all {BUDGET} to itself. The times",
        "are recorded ones of the GPUs in the names, or made up, with 1% noise, as in",
        "[search-replay](search-replay.md). It measures no GPU.",
        "",
        where,
        "",
        "Regret: by how much the chosen config is slower than the exhaustive best; median of the seeds. The loss",
        "is the time of the four's winner over that of the one's, less 1, median of the pairs, with the interval that",
        f"holds it with 95% confidence. The goal: at most {GOAL:.0%} over all, no landscape clearly above that, no",
        "worker above its quarter and no config timed twice. Where the median of a landscape was above the goal and",
        f"its interval was not, the figures are those of {MORE - 1} times as many seeds, all of them others; its row",
        f"of the first {SEEDS} is below the table.",
        "",
        "| landscape | seeds | regret alone | of four | loss | 95% | of the busiest | of all, at most | timed twice |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {each.landscape} | {each.seeds} | {each.alone:.1%} | {each.shared:.1%} | {each.loss:+.1%} "
            f"| {each.low:+.1%} to {each.high:+.1%} | {each.most_timings:g} | {each.total_timings} | {each.twice} |"
            for each in rows
        ),
        *(
            f"\n{each.landscape}, the first {each.seeds} seeds: {each.loss:+.1%} ({each.low:+.1%} to {each.high:+.1%})"
            for each in first
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
