"""The ways of running the whole model, in words: how each fared in each step, and after how many steps it has paid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from twinkle_tune.measure.smallest import memory_ratio
from twinkle_tune.profile.schema import Profile
from twinkle_tune.profile.setup import KERNELS, CompiledStep
from twinkle_tune.report.plot import LABEL, Plot, labels, ratio_row
from twinkle_tune.report.text import NOTHING, bytes_text, one_line, ratio_text, time_text

_NAME_LIMIT = 80
_SHOWN = 2
"""So many of a step's ways stand in its line: the one that runs, and the fastest others."""
_FAILED = {"wrong": "refused", "inconclusive": "not checked", "not timed": "not timed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WayLine:
    """One way in one step.

    Attributes:
        step, way: what was run, and how.
        mark: "runs" for what ``kernelize_model`` puts in place, "taken back" for what won the step and is not; else "".
        original, time: of the step, in the same rounds.
        ratio: its time over the original's, with the interval; why there is none in a word.
        memory: its peak, and that over the original's.
        compiling: the time that its first two calls took.
        pays: after how many steps that is saved; "-" for never.
    """

    step: str
    way: str
    mark: str
    original: str
    time: str
    ratio: str
    memory: str
    compiling: str
    pays: str

    @property
    def runs(self) -> bool:
        """Whether it is what ``kernelize_model`` puts in place."""
        return self.mark == "runs"


def way_lines(profile: Profile) -> Iterator[WayLine]:
    """Every way of every step, the fastest of a step first."""
    for label, ways in _by_step(profile).items():
        for way in ways:
            yield WayLine(
                step=one_line(label, _NAME_LIMIT),
                way=one_line(way.way, _NAME_LIMIT),
                mark=_mark(profile, way),
                original=time_text(median(way.original_us)) if way.original_us else NOTHING,
                time=time_text(median(way.compiled_us)) if way.compiled_us else NOTHING,
                ratio=_FAILED.get(way.cause, "failed") if way.problem else ratio_text(way.ratio, way.low, way.high),
                memory=_memory(way),
                compiling=NOTHING if way.problem or way.way == KERNELS else time_text(way.compile_s * 1e6),
                pays=_pays(way),
            )


def short_lines(profile: Profile) -> tuple[str, ...]:
    """A heading, and a line a step: "prefill 1x128: compile 0.76 (runs), kernels 0.95"; none where none was tried."""
    if not profile.compiled:
        return ()
    took_s = sum(step.compile_s for step in profile.compiled)
    lines = [f"Ways of running it, time ÷ original in their contest (compiling took {took_s:.0f} s)"]
    for label, ways in _by_step(profile).items():
        first = sorted(ways, key=lambda way: not _runs(profile, way))
        told = [_short(profile, way) for way in first]
        told = [*told[:_SHOWN], f"{len(told) - _SHOWN} more"] if len(told) > _SHOWN else told
        lines.append(one_line(f"{label}: {', '.join(told)}", 2 * _NAME_LIMIT))
    return tuple(lines)


def _short(profile: Profile, way: CompiledStep) -> str:
    figure = _FAILED.get(way.cause, "failed") if way.problem else f"{way.ratio:.2f}"
    mark = _mark(profile, way)
    return f"{way.way} {figure}{f' ({mark})' if mark else ''}"


def way_plots(profile: Profile) -> Iterator[Plot]:
    """A plot a step: a line for each way, with its interval."""
    for number, (label, ways) in enumerate(_by_step(profile).items(), 1):
        timed = [way for way in ways if not way.problem]
        names = labels(way.way for way in timed)
        rows = [
            ratio_row(name, way.ratio, way.low, way.high, "winner" if _runs(profile, way) else "other")
            for name, way in zip(names, timed, strict=True)
        ]
        yield Plot(
            name=f"ways-{number}",
            kind="ratios",
            title=f"{one_line(label, 60)}: time ÷ original of each way",
            text="; ".join(f"{way.way[:LABEL]}: {ratio_text(way.ratio, way.low, way.high)}" for way in timed),
            rows=(*rows, ratio_row("original", 1.0, None, None, "original")) if rows else (),
        )


def way_of(profile: Profile, label: str) -> str:
    """The way that runs in a step; "" for the model as it is."""
    return next((setup.name for setup in profile.setups if setup.label == label), "")


def _mark(profile: Profile, way: CompiledStep) -> str:
    return "runs" if _runs(profile, way) else "taken back" if way.taken_back else ""


def _runs(profile: Profile, way: CompiledStep) -> bool:
    return way_of(profile, way.label) == way.way


def _by_step(profile: Profile) -> dict[str, list[CompiledStep]]:
    found: dict[str, list[CompiledStep]] = {}
    for step in profile.compiled:
        found.setdefault(step.label, []).append(step)
    return {label: sorted(ways, key=lambda way: (bool(way.problem), way.ratio)) for label, ways in found.items()}


def _memory(way: CompiledStep) -> str:
    ratio = memory_ratio(way.compiled_peak_bytes, way.original_peak_bytes)
    return NOTHING if way.problem or ratio is None else f"{bytes_text(way.compiled_peak_bytes)} ({ratio_text(ratio)})"


def _pays(way: CompiledStep) -> str:
    if way.problem or way.way == KERNELS or way.high >= 1 or not way.original_us:
        return NOTHING
    count = paid_after(way)
    return f"{count:,} step{'' if count == 1 else 's'}"


def paid_after(way: CompiledStep) -> int:
    """The number of steps after which compiling a way has taken less time than it saved."""
    saved_us = median(way.original_us) * (1 - way.ratio)
    return max(1, math.ceil(way.compile_s * 1e6 / saved_us))
