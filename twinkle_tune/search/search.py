"""The search: propose, time, write down; at the end the fastest race the config used so far.

The fastest of many noisy times is flattered by the noise, so a time that was seen during the search decides nothing:
it only says what to try next and who takes part in the final race.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from twinkle_tune.errors import ConfigError
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.ops.space import Config, Space
from twinkle_tune.outcome import Rejection
from twinkle_tune.parity.verdict import Verdict
from twinkle_tune.search.final import final_race
from twinkle_tune.search.journal import SearchJournal
from twinkle_tune.search.propose import ahead, fastest, propose
from twinkle_tune.search.record import SearchResult, SearchSettings, SharedStudy, Tried

_AHEAD = 3
"""Configs that are compiled while another one is timed."""
_GAIN = 0.01
"""A time must fall by this share to count as progress."""
_FOR_TRYING = 0.6
"""Share of a search's time after which no config is tried any more: the rest is for the final race."""
_POLL_S = 0.1
"""Between looks at a study in which there is nothing to do until others are done."""
_REFUSED_PER_TIMING = 4
"""So many refused configs for each timing of the budget, and the search gives up."""


class Bench(Protocol):
    """What can be done with a config of one kernel on one device. The search's only hold on the world."""

    @property
    def clock(self) -> Clock:
        """Times the final race."""

    def prepare(self, configs: Sequence[Config]) -> None:
        """Begin to compile these, which may be tried next. Returns at once."""

    def time_us(self, config: Config) -> float | Rejection:
        """Compile it, refuse it if it cannot run, call it once, and time one burst: microseconds of a call."""

    def call(self, config: Config) -> Call:
        """The call that is raced, on the same buffers for every config."""

    def judge(self, config: Config) -> Verdict:
        """Whether it is right, by the whole parity rule. May raise what the kernel raises."""

    def judge_again(self, config: Config) -> Verdict:
        """Whether it still is, after it was timed (point 8)."""


def search(
    space: Space,
    bench: Bench,
    settings: SearchSettings,
    *,
    default: Config,
    known: Sequence[Config] = (),
    journal: Path | SharedStudy | None = None,
    name: str = "search",
    on_tried: Callable[[Tried], None] | None = None,
) -> SearchResult:
    """Find the fastest config that is right, at a small number of timings.

    Args:
        space: the configs of one kernel for one call.
        bench: compiles, times, races and judges them.
        settings: how long it looks, and what must be gained.
        default: the config used so far. It stays unless another one is faster by the rule of the race.
        known: configs worth a try, as the winners of near shapes; those that this space does not have are left out.
        journal: a file from which a killed search goes on, with nothing timed twice, or a study that several workers
            share: the budget is that of all of them, and each races the fastest by itself. None for none.
        name: of the search within the journal: equal only for the same question.
        on_tried: is told of each config.

    Returns:
        The winner with its evidence; a config of None where no config runs and is right.

    Raises:
        ConfigError: ``default`` is not of the space.
        TuneError: the journal cannot be used.
    """
    space.check(default)
    pool = list(space.configs())
    book = SearchJournal(space, name, journal)
    drawing = replace(settings, seed=book.seed(settings.seed))
    first = [default, *(config for config in known if _fits(space, config))]
    began_s, limit_s = time.monotonic(), math.inf if settings.deadline_s is None else settings.deadline_s
    over_s = began_s + _FOR_TRYING * limit_s
    ended, in_time = _explore(space, pool, bench, drawing, book, first, over_s, on_tried)
    ran = fastest(book.tried)
    if not ran:
        return replace(_none(pool, book.tried, ended), in_time=in_time)
    count = len(ran) if _tries_all(pool, settings) else settings.finalists
    outcome = final_race(bench, default, ran, count, settings, _refused(default, book.tried), began_s + limit_s)
    return SearchResult(
        config=outcome.config,
        reason=outcome.reason,
        ratio=outcome.ratio.ratio,
        low=outcome.ratio.low,
        high=outcome.ratio.high,
        rounds=outcome.ratio.rounds,
        size=len(pool),
        timed=len(ran),
        ended=ended,
        in_time=in_time and time.monotonic() < began_s + limit_s,
        tried=tuple(book.tried),
        finalists=outcome.finalists,
        agreed=None if outcome.config is None else book.agreed(outcome.config),
    )


def _tries_all(pool: Sequence[Config], settings: SearchSettings) -> bool:
    return len(pool) <= min(settings.race_all, settings.budget)


def _explore(
    space: Space,
    pool: Sequence[Config],
    bench: Bench,
    settings: SearchSettings,
    book: SearchJournal,
    first: Sequence[Config],
    over_s: float,
    on_tried: Callable[[Tried], None] | None,
) -> tuple[str, bool]:
    """Try configs until there is a reason to end, which is returned; and whether that is another one than the time."""
    whole = _tries_all(pool, settings)
    queue = [(config, "known") for config in first] + [(config, "whole") for config in pool if whole]
    while True:
        book.look()
        taken = [*book.tried, *book.claimed]
        done = {tuple(space.in_order(each.config)) for each in taken}
        queue = [(config, how) for config, how in (*book.left, *queue) if tuple(space.in_order(config)) not in done]
        ended = "" if whole else _ended(book.tried, settings)
        if ended:
            return ended, True
        if time.monotonic() >= over_s:
            return f"out of time after {len(done)} configs", False
        found = queue[0] if queue else propose(space, pool, taken, settings.budget, settings.seed)
        is_others = book.claimed and (found is None or (not whole and _is_enough(taken, settings)))
        if is_others or (found is not None and book.leaves_to_others(len(pool) if whole else settings.budget)):
            time.sleep(_POLL_S)  # until it is known what comes of what others are trying
            continue
        if found is None:
            return "the whole space was tried", True
        bench.prepare([found[0], *_next(space, pool, taken, queue, found, settings)])
        if book.begin(*found, most=math.inf if whole else settings.budget):
            tried = _timed(bench, book, *found)
            if on_tried is not None:
                on_tried(tried)


def _timed(bench: Bench, book: SearchJournal, config: Config, how: str) -> Tried:
    try:
        outcome = bench.time_us(config)
    except BaseException:
        book.let_go()
        raise
    if isinstance(outcome, Rejection):
        tried = Tried(config=config, how=how, refused=outcome)
    else:
        tried = Tried(config=config, how=how, time_us=outcome)
    book.end(tried)
    return tried


def _is_enough(taken: Sequence[Tried], settings: SearchSettings) -> bool:
    """Whether the budget is used when everything that is being tried runs."""
    return sum(each.refused is None for each in taken) >= settings.budget


def _next(
    space: Space,
    pool: Sequence[Config],
    taken: Sequence[Tried],
    queue: Sequence[tuple[Config, str]],
    found: tuple[Config, str],
    settings: SearchSettings,
) -> list[Config]:
    if queue:
        return [config for config, _ in queue[1 : 1 + _AHEAD]]
    tried = [*taken, Tried(config=found[0], how=found[1])]
    return list(ahead(space, pool, tried, settings.budget, settings.seed, _AHEAD))


def _ended(tried: Sequence[Tried], settings: SearchSettings) -> str:
    times = [each.time_us for each in tried if each.time_us is not None]
    if len(times) >= settings.budget:
        return f"the budget of {settings.budget} timings was used"
    if len(tried) - len(times) >= _REFUSED_PER_TIMING * settings.budget:
        return f"{len(tried) - len(times)} configs were refused"
    since, best_us = 0, float("inf")
    for time_us in times:
        since += 1
        if time_us < (1 - _GAIN) * best_us:
            since, best_us = 0, time_us
    if since >= settings.patience_timings:
        return f"no gain of {_GAIN:.0%} in {since} timings"
    return ""


def _none(pool: Sequence[Config], tried: Sequence[Tried], ended: str) -> SearchResult:
    if not tried:
        return SearchResult(config=None, reason=f"{ended} of {len(pool)}", size=len(pool), timed=0, ended=ended)
    reasons = Counter(f"{each.refused.stage}: {each.refused.reason}" for each in tried if each.refused is not None)
    most, count = reasons.most_common(1)[0]
    return SearchResult(
        config=None,
        reason=f"none of {len(tried)} configs tried runs ({len(pool)} in the space); {count} of them: {most}",
        size=len(pool),
        timed=0,
        ended=ended,
        tried=tuple(tried),
    )


def _refused(config: Config, tried: Sequence[Tried]) -> str:
    """Why this config does not run; "" if it does."""
    # Not tried at all where another worker was about to, and is gone: the final race judges it.
    found = next((each.refused for each in tried if each.config == config), None)
    return "" if found is None else f"{found.stage}: {found.reason}"


def _fits(space: Space, config: Config) -> bool:
    try:
        space.check(config)
    except ConfigError:
        return False
    return True
