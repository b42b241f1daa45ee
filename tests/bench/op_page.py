"""The page of the bench of our ops: means, where ours falls short, and every point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import exp, log
from statistics import mean

from tests.bench.op_race import Measured
from tests.bench.op_rivals import COMPILED, EAGER, LIGER, OURS, TUNED

AIMS: Mapping[str, float] = {LIGER: 1.1, COMPILED: 1.0}
"""How many times as fast ours should be, as a geometric mean."""
LEAST_AGAINST_LIGER = 0.97
LEAST_SHARE = 0.85
LARGE_BYTES = 64 * 2**20
_BOUND_BY_ARITHMETIC = ("fused_linear_cross_entropy",)
_AGAINST = (EAGER, COMPILED, LIGER)


def page(where: str, device: str, points: Sequence[Measured], wrong: Mapping[str, str], left: int) -> list[str]:
    """The page in Markdown; ``wrong`` are ops of ours that are, and ``left`` counts points that time was up for."""
    ops = list(dict.fromkeys(point.op for point in points))
    return [
        "# Our ops against eager torch, torch.compile and Liger",
        "",
        "Made by `make gpu-ops` (`python -m tests.bench.ops --device " + device + "`), inputs in bfloat16.",
        *_EXPLAINED,
        "",
        where,
        "",
        *([f"**Not finished**: time was up for {left} points of the last command.", ""] if left else []),
        *(f"**Wrong, and not timed**: {op}: {why}" for op, why in wrong.items()),
        "## How many times as fast as others ours is",
        "",
        "Geometric means over all points that both ran; aims: "
        + ", ".join(f"{aim:.2f} of {name}" for name, aim in AIMS.items())
        + ".",
        "",
        "| op | points | of " + " | of ".join(_AGAINST) + " | copy bandwidth, from 64 MiB | when |",
        "|---|---|" + "---|" * len(_AGAINST) + "---|---|",
        *(_summary(op, [point for point in points if point.op == op]) for op in ops),
        _summary("**all**", points),
        "",
        "## Where ours falls short",
        "",
        *(["On a CPU nothing is asked of it."] if device == "cpu" else shortfalls(points) or ["Nowhere."]),
        "",
        *_left_out(points),
        "## Every point",
        "",
        *(line for op in ops for line in _table(op, [point for point in points if point.op == op])),
    ]


_EXPLAINED = (
    "A time is that of one call among many in a row, as an eager model runs it, the median of at least six rounds in",
    "which all were timed in random order on the same buffers. Liger's kernels that write over what they are given got",
    "copies of their own, and keep that advantage; its linear cross entropy adds up the weight's gradient in bfloat16,",
    "ours in float32. *Ours* is the default config, *tuned* a tuned one; means, bandwidth and what falls short are of",
    "the tuned one where there is one. *Copy*: bytes that the formula must move, over the time, as a share of what a",
    "device copy of 512 MiB reaches; what stays in the cache from call to call can make it more than 100%. *Peak*: the",
    "most memory beyond the inputs. Ours was held against float64 by the parity rule before it was timed. The linear",
    "cross entropy is bound by arithmetic: its bandwidth says little.",
)


def mean_gain(points: Sequence[Measured], rival: str) -> float | None:
    """How many times as fast as a rival ours is, as a geometric mean; None where they never met."""
    ratios = [point.times[rival].over_ours for point in points if rival in point.times]
    logs = [log(ratio.ratio) for ratio in ratios if ratio is not None]
    return exp(mean(logs)) if logs else None


def shortfalls(points: Sequence[Measured]) -> list[str]:
    """Every aim that is missed, as a list in Markdown."""
    return [f"- {line}" for line in (*_missed_means(points), *_behind_liger(points), *_slow_memory(points))]


def _missed_means(points: Sequence[Measured]) -> Iterator[str]:
    for rival, aim in AIMS.items():
        found = mean_gain(points, rival)
        if found is None:
            yield f"Nothing was timed against {rival}."
        elif found < aim:
            yield f"Over all points ours is {found:.3f} times as fast as {rival}; the aim is {aim:.2f}."
    for point in points:
        if point.ours is None:
            yield f"{_named(point)}: ours did not run: {point.left_out.get(OURS, '')}."


def _behind_liger(points: Sequence[Measured]) -> Iterator[str]:
    for point in points:
        ratio = point.times[LIGER].over_ours if LIGER in point.times else None
        if ratio is not None and ratio.ratio < LEAST_AGAINST_LIGER:
            interval = f"{ratio.low:.2f} to {ratio.high:.2f}"
            yield f"{_named(point)}: {ratio.ratio:.2f} times as fast as Liger ({interval})."


def _slow_memory(points: Sequence[Measured]) -> Iterator[str]:
    for point in points:
        share = _large_share(point)
        if share is not None and share < LEAST_SHARE:
            yield f"{_named(point)}: {share:.0%} of copy bandwidth at {point.moved_bytes / 2**20:.0f} MiB."


def _large_share(point: Measured) -> float | None:
    """Of copy bandwidth, for a call that is bound by memory and moves at least 64 MiB; None for others."""
    large = point.moved_bytes >= LARGE_BYTES and point.op not in _BOUND_BY_ARITHMETIC
    return point.share(point.ours) if large and point.ours is not None else None


def _named(point: Measured) -> str:
    return f"{point.op} {'x'.join(map(str, point.dims.values()))} {_pass(point)}"


def _pass(point: Measured) -> str:
    return "forward+backward" if point.backward else "forward"


def _summary(name: str, points: Sequence[Measured]) -> str:
    gains = [mean_gain(points, rival) for rival in _AGAINST]
    shares = [share for share in map(_large_share, points) if share is not None]
    dates = sorted({point.date for point in points})
    columns = (
        name,
        str(len(points)),
        *("" if gain is None else f"{gain:.2f}" for gain in gains),
        f"{min(shares):.0%} to {max(shares):.0%}" if shares else "",
        " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "",
    )
    return f"| {' | '.join(columns)} |"


def _left_out(points: Sequence[Measured]) -> list[str]:
    """Who was not timed where and why, and where there are fewer rows than asked for."""
    reasons: dict[str, list[Measured]] = {}
    for point in points:
        for name, why in point.left_out.items():
            reasons.setdefault(f"{name}: {why}", []).append(point)
        if next(iter(point.dims.values())) < point.rows_wanted:
            reasons.setdefault(f"{point.rows_wanted} rows would not have fitted into memory", []).append(point)
    if not reasons:
        return []
    lines = ["## What was left out", ""]
    for reason, where in reasons.items():
        names = ", ".join(dict.fromkeys(_named(point) for point in where))
        ops = ", ".join(dict.fromkeys(point.op for point in where))
        lines.append(f"- {reason} ({names if len(where) <= 4 else f'{len(where)} points of {ops}'})")
    return [*lines, ""]


def _table(op: str, points: Sequence[Measured]) -> Iterator[str]:
    variant = f", {points[0].variant}" if points[0].variant else ""
    names = [name for name in (EAGER, COMPILED, LIGER, OURS, TUNED) if any(name in point.times for point in points)]
    yield f"### {op}{variant}: {' x '.join(points[0].dims)}"
    yield ""
    yield "Microseconds; in brackets the peak in MiB."
    yield ""
    yield f"| sizes | of | pass | {' | '.join(names)} | of {COMPILED} | of Liger | GB/s | copy |"
    yield "|---|---|---|" + "---|" * (len(names) + 4)
    for point in points:
        ours = point.ours
        columns = (
            "x".join(map(str, point.dims.values())),
            point.model,
            _pass(point),
            *(_cell(point, name) for name in names),
            *(_gain(point, rival) for rival in (COMPILED, LIGER)),
            "" if ours is None else f"{point.moved_bytes / ours.median_us / 1e3:.0f}",
            "" if ours is None else f"{point.share(ours):.0%}",
        )
        yield f"| {' | '.join(columns)} |"
    yield ""


def _cell(point: Measured, name: str) -> str:
    if name not in point.times:
        return ""
    timed = point.times[name]
    peak = "" if timed.peak_bytes is None else f" ({timed.peak_bytes / 2**20:.4g})"
    return f"{timed.median_us:.4g}{peak}"


def _gain(point: Measured, rival: str) -> str:
    ratio = point.times[rival].over_ours if rival in point.times else None
    return "" if ratio is None else f"{ratio.ratio:.2f}"
