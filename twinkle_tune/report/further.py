"""A contest's further times as a small table and in words. They decide nothing, and the report says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.outcome import Timings
from twinkle_tune.profile.schema import Contest
from twinkle_tune.report.text import NOTHING, one_line, ratio_text, time_text
from twinkle_tune.slot import ORIGINAL

FEWEST = 6
"""Rounds below which no interval reaches 95%, and nothing is said of who is faster."""
_HEADS = (
    "Candidate",
    "Cold caches",
    "Cold ÷ original",
    "CUDA graph",
    "Graph ÷ original",
    "Host",
    "Forward",
    "Backward",
    "Note",
)
_NAME_LIMIT, _NOTE_LIMIT = 80, 300


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherPart:
    """The further times of one contest: a table without its empty columns, and what they say in words."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]


def further_part(contest: Contest) -> FurtherPart | None:
    """What the report shows of a contest's further times; None where there are none."""
    if not contest.timings:
        return None
    rows = [_row(each, contest.timings) for each in contest.timings]
    used = [index for index in range(len(_HEADS)) if any(row[index] not in ("", NOTHING) for row in rows)]
    return FurtherPart(
        heads=tuple(_HEADS[index] for index in used),
        rows=tuple(tuple(row[index] for index in used) for row in rows),
        words=tuple(one_line(words, _NOTE_LIMIT) for words in _words(contest)),
    )


def against_original(times: str, each: Timings, all_of: Sequence[Timings]) -> Ratio | None:
    """The ratio of a candidate's ``cold_us`` or ``graph_us`` (``times``) to the original's; None without pairs."""
    original = next((other for other in all_of if other.candidate == ORIGINAL), None)
    if original is None or each.candidate == ORIGINAL:
        return None
    mine_us, its_us = getattr(each, times), getattr(original, times)
    return paired_ratio(mine_us, its_us) if mine_us and its_us else None


def _words(contest: Contest) -> Iterator[str]:
    """Where another clock says otherwise about who is faster, and who is bound by the host."""
    for each in contest.timings:
        name = one_line(each.candidate, _NAME_LIMIT)
        for times, where in (("cold_us", "With cold caches"), ("graph_us", "Captured in a CUDA graph")):
            ratio = against_original(times, each, contest.timings)
            if each.candidate == contest.selection.winner and ratio and ratio.rounds >= FEWEST and ratio.low > 1:
                yield (
                    f"{where} {name} is the slower one ({ratio_text(ratio.ratio, ratio.low, ratio.high)} of the "
                    "original's time), though it won the race: what the whole model gains decides."
                )
        if each.host_us and each.graph_us and each.host_us > median(each.graph_us):
            yield (
                f"{name} is bound by the host: launching takes {time_text(each.host_us)}, the device is done in "
                f"{time_text(median(each.graph_us))}."
            )


def _row(each: Timings, all_of: Sequence[Timings]) -> tuple[str, ...]:
    cold, graph = (against_original(times, each, all_of) for times in ("cold_us", "graph_us"))
    return (
        one_line(each.candidate, _NAME_LIMIT),
        time_text(median(each.cold_us) if each.cold_us else None),
        ratio_text(cold.ratio, cold.low, cold.high) if cold else NOTHING,
        time_text(median(each.graph_us) if each.graph_us else None),
        ratio_text(graph.ratio, graph.low, graph.high) if graph else NOTHING,
        time_text(each.host_us),
        time_text(each.forward_us),
        time_text(each.backward_us),
        one_line("; ".join(each.notes), _NOTE_LIMIT),
    )
