"""The final race: the fastest of a search against the config used so far; only those that are right take part."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.measure.race import Decision
from twinkle_tune.measure.recheck import race_until_right, why_wrong
from twinkle_tune.measure.run import run_race
from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.ops.space import Config
from twinkle_tune.parity.verdict import Verdict
from twinkle_tune.search.record import Finalist, SearchSettings, Tried
from twinkle_tune.slot import ORIGINAL

_NO_GAIN = Ratio(ratio=1.0, low=1.0, high=1.0, rounds=0)
_MOST_WRONG = 20
"""So many wrong ones, and no more are judged: it is the kernel, not its config."""


class Track(Protocol):
    """What the final race needs of a bench; see :class:`twinkle_tune.search.search.Bench`."""

    @property
    def clock(self) -> Clock: ...
    def call(self, config: Config) -> Call: ...
    def judge(self, config: Config) -> Verdict: ...
    def judge_again(self, config: Config) -> Verdict: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """How it ended: the winner or None, why, its time over that of the config used so far, and who took part."""

    config: Config | None
    reason: str
    ratio: Ratio = _NO_GAIN
    finalists: tuple[Finalist, ...] = ()


def final_race(
    track: Track,
    default: Config,
    ran: Sequence[Tried],
    count: int,
    settings: SearchSettings,
    why: str,
    ends_s: float = math.inf,
) -> Final:
    """Judge and race the fastest against ``default``, which stays unless one is faster by the rule of the race.

    Args:
        track: calls and judges configs.
        default: the config used so far.
        ran: those that ran, the fastest first; ``default`` may be among them.
        count: so many that are right race at most.
        settings: of the race. Who was over ``hopeless`` slower than the fastest that is right does not race.
        why: "" or why the default does not run. Where it does not run or is wrong, the fastest that is right takes
            its place.
        ends_s: of the monotonic clock: when the race ends, and no more are judged for it.
    """
    why = why or _why(partial(track.judge, default))
    right, wrong = _judged(
        track, [each for each in ran if each.config != default], count, settings.race.hopeless, ends_s
    )
    refused = [Finalist(name="", config=config, left=reason) for config, reason in wrong]
    if why:
        refused.insert(0, Finalist(name="", config=default, left=why))
    racing = right if why else [default, *right]
    raced: tuple[Finalist, ...] = ()
    while racing:
        decision, raced, gone = _raced(track, racing, settings, ends_s)
        winner = next(each for each in raced if each.name == decision.winner)
        # Whoever is in the original's place was not judged again with the others.
        reason = _why(partial(track.judge_again, winner.config)) if winner.name == ORIGINAL else ""
        if not reason:
            return _final(decision, winner, raced, refused, why)
        refused.append(Finalist(name="", config=winner.config, left=f"right at first, wrong after the race: {reason}"))
        why = why or refused[-1].left
        racing = [config for config in racing if config != winner.config and config not in gone]
    reasons = "; ".join(dict.fromkeys(each.left for each in refused))
    return Final(config=None, reason=f"no config is right: {reasons}", finalists=(*raced, *refused))


def _why(judge: Callable[[], Verdict]) -> str:
    found = why_wrong(judge)
    return "" if found is None else found.reason


def _judged(
    track: Track, ran: Sequence[Tried], count: int, hopeless: float, ends_s: float
) -> tuple[list[Config], list[tuple[Config, str]]]:
    """The fastest that are right, and those that turned out wrong on the way with the reason."""
    right: list[Config] = []
    wrong: list[tuple[Config, str]] = []
    limit_us = math.inf
    for each in ran:
        time_us = each.time_us or math.inf
        if right and time.monotonic() >= ends_s:
            break
        if len(right) >= count or len(wrong) >= _MOST_WRONG or time_us > limit_us:
            break
        reason = _why(partial(track.judge, each.config))
        if reason:
            wrong.append((each.config, reason))
        else:
            right.append(each.config)
            limit_us = min(limit_us, (1 + hopeless) * time_us)
    return right, wrong


def _raced(
    track: Track, racing: Sequence[Config], settings: SearchSettings, ends_s: float
) -> tuple[Decision, tuple[Finalist, ...], list[Config]]:
    """Race the first as the original against the others; also those that turned wrong meanwhile."""
    configs: Mapping[str, Config] = {ORIGINAL if i == 0 else f"config {i}": each for i, each in enumerate(racing)}
    calls = {name: track.call(config) for name, config in configs.items()}

    def again(config: Config) -> Callable[[], Verdict]:
        return lambda: track.judge_again(config)

    def race(names: Sequence[str]) -> tuple[Decision, Mapping[str, tuple[float, ...]]]:
        left_s = None if ends_s == math.inf else max(0.0, ends_s - time.monotonic())
        racers = {name: calls[name] for name in names}
        return run_race(racers, track.clock, settings.race, seed=settings.seed, deadline_s=left_s)

    decision, times_us, wrong = race_until_right(
        tuple(configs),
        race,
        {name: again(config) for name, config in configs.items() if name != ORIGINAL},
    )
    left = {**dict(decision.left), **{name: out.reason for name, out in wrong.items()}}
    raced = tuple(
        Finalist(name=name, config=config, times_us=times_us.get(name, ()), left=left.get(name, ""))
        for name, config in configs.items()
    )
    return decision, raced, [configs[name] for name in wrong]


def _final(
    decision: Decision, winner: Finalist, raced: tuple[Finalist, ...], refused: Sequence[Finalist], why: str
) -> Final:
    ratio = _NO_GAIN
    if winner.name != ORIGINAL:
        original = next(each for each in raced if each.name == ORIGINAL)
        ratio = paired_ratio(winner.times_us, original.times_us)
        reason = decision.reason
    elif why:
        reason = f"the fastest that is right; {decision.reason}"
    else:
        reason = f"the config used so far stays: {decision.reason}"
    if why:
        reason += f" (the config used so far is out: {why})"
    return Final(config=winner.config, reason=reason, ratio=ratio, finalists=(*raced, *refused))
