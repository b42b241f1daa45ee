"""The final race: the fastest of a search against the config used so far; only those that are right take part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from twinkle_tune.errors import in_a_line
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.measure.race import Decision
from twinkle_tune.measure.recheck import in_words, race_until_right
from twinkle_tune.measure.run import run_race
from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.ops.space import Config
from twinkle_tune.parity.verdict import Inconclusive, Reject, Verdict
from twinkle_tune.search.record import Finalist, SearchSettings
from twinkle_tune.slot import ORIGINAL

_NO_GAIN = Ratio(ratio=1.0, low=1.0, high=1.0, rounds=0)
_JUDGED_PER_FINALIST = 3
"""Where all that were to race are wrong, so many times as many are judged before the search gives up."""


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
    track: Track, default: Config, fast: Sequence[Config], rest: Sequence[Config], settings: SearchSettings, why: str
) -> Final:
    """Judge and race ``fast`` against ``default``, which stays unless one of them is faster by the rule of the race.

    Args:
        track: calls and judges configs.
        default: the config used so far.
        fast: those that are to race, the fastest first; ``default`` may be among them.
        rest: those that come up where all of ``fast`` are wrong, the next fastest first.
        settings: of the race.
        why: "" or why the default does not run. Where it does not run or is wrong, the fastest that is right takes
            its place.
    """
    why = why or _wrong(track.judge, default)
    right, wrong = _judged(track, [config for config in fast if config != default], has_default=not why, rest=rest)
    refused = [Finalist(name="", config=config, left=reason) for config, reason in wrong]
    if why:
        refused.insert(0, Finalist(name="", config=default, left=why))
    racing = right if why else [default, *right]
    raced: tuple[Finalist, ...] = ()
    while racing:
        decision, raced, gone = _raced(track, racing, settings)
        winner = next(each for each in raced if each.name == decision.winner)
        # Whoever is in the original's place was not judged again with the others.
        reason = _wrong(track.judge_again, winner.config) if winner.name == ORIGINAL else ""
        if not reason:
            return _final(decision, winner, raced, refused, why)
        refused.append(Finalist(name="", config=winner.config, left=f"right at first, wrong after the race: {reason}"))
        why = why or refused[-1].left
        racing = [config for config in racing if config != winner.config and config not in gone]
    reasons = "; ".join(dict.fromkeys(each.left for each in refused))
    return Final(config=None, reason=f"no config is right: {reasons}", finalists=(*raced, *refused))


def _judged(
    track: Track, fast: Sequence[Config], *, has_default: bool, rest: Sequence[Config]
) -> tuple[list[Config], list[tuple[Config, str]]]:
    """Those that are right, and those that are wrong with the reason."""
    right: list[Config] = []
    wrong: list[tuple[Config, str]] = []
    reserve = [] if has_default else list(rest)[: _JUDGED_PER_FINALIST * len(fast)]
    for number, config in enumerate([*fast, *reserve]):
        if number >= len(fast) and right:
            break
        reason = _wrong(track.judge, config)
        if reason:
            wrong.append((config, reason))
        else:
            right.append(config)
    return right, wrong


def _raced(
    track: Track, racing: Sequence[Config], settings: SearchSettings
) -> tuple[Decision, tuple[Finalist, ...], list[Config]]:
    """Race the first as the original against the others; also those that turned wrong meanwhile."""
    configs: Mapping[str, Config] = {ORIGINAL if i == 0 else f"config {i}": each for i, each in enumerate(racing)}
    calls = {name: track.call(config) for name, config in configs.items()}

    def again(config: Config) -> Callable[[], Verdict]:
        return lambda: track.judge_again(config)

    decision, times_us, wrong = race_until_right(
        tuple(configs),
        lambda names: run_race({name: calls[name] for name in names}, track.clock, settings.race, seed=settings.seed),
        {name: again(config) for name, config in configs.items() if name != ORIGINAL},
    )
    left = {**dict(decision.left), **wrong}
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


def _wrong(judge: Callable[[Config], Verdict], config: Config) -> str:
    try:
        verdict = judge(config)
    except Exception as error:
        # A kernel can raise anything, and does so for configs that nobody tried before.
        return f"raised {in_a_line(error, 200)}"
    match verdict:
        case Reject():
            return in_words(verdict)
        case Inconclusive():
            return f"inconclusive: {verdict.reason}"
    return ""
