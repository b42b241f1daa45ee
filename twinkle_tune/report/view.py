"""What a report says, as text that every format lays out in its own way. The figures come from the tables."""

from __future__ import annotations

from dataclasses import dataclass

from twinkle_tune.profile.schema import Contest, Profile, Seen
from twinkle_tune.report import frames, head
from twinkle_tune.report.frames import Row
from twinkle_tune.report.text import (
    NOTHING,
    bytes_text,
    is_figure,
    one_line,
    percent,
    ratio_text,
    reading,
    speedup_text,
    three_digits,
    time_text,
)
from twinkle_tune.slot import ORIGINAL

_NAME_LIMIT = 80
_SENTENCE_LIMIT = 600
_INSTANCES_SHOWN = 3
_AXIS_LIMIT = 3.0
"""Bars end at three times the original's time: one very slow candidate must not flatten the others."""

LEGEND = (
    "Time ÷ original: median over paired rounds of the candidate's time over the original's, under 1 is "
    "faster. In brackets the interval that holds it with at least 95% confidence (under 6 rounds: the "
    "smallest and the largest seen). Parity: error ÷ limit of the tensor that came closest to its limit; "
    "up to 1 passes."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLine:
    """The whole model in one step, without and with the winners."""

    step: str
    original: str
    tuned: str
    ratio: str
    reading: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionLine:
    """One contest in the table of winners. ``gained`` says whether something else than the original won."""

    number: int
    slot: str
    call: str
    calls: str
    share: str
    winner: str
    gained: bool
    original: str
    time: str
    ratio: str
    speedup: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A time over the original's, in percent of the axis' width; ``beyond``: it does not end on the axis."""

    width: float
    low: float
    high: float
    original: float
    beyond: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """A candidate that was timed.

    ``mark`` is "winner", or "kept" for an original that stayed; ``parity`` is error over limit, and
    ``parity_of`` says of which tensor, and what the check noted besides.
    """

    candidate: str
    source: str
    mark: str
    time: str
    ratio: str
    rounds: str
    first_call: str
    memory: str
    parity: str
    parity_of: str
    note: str
    bar: Bar | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A candidate that was not."""

    candidate: str
    source: str
    stage: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestPart:
    """One contest in full: the timed candidates from the fastest to the slowest, then the refused ones."""

    number: int
    slot: str
    call: str
    target: str
    where: str
    seen: str
    winner: str
    reason: str
    runners: tuple[Runner, ...]
    refused: tuple[Refused, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A whole report. ``notes`` are what a reader must know before believing a figure."""

    title: str
    verdict: str
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    steps: tuple[StepLine, ...]
    selections: tuple[SelectionLine, ...]
    contests: tuple[ContestPart, ...]
    uncalled: tuple[str, ...]
    reproduce: str
    apply: str
    legend: str = LEGEND


def view(profile: Profile, path: str = "profile.json") -> View:
    """The report's text. ``path`` is where the reader finds the profile, for the lines to copy."""
    rows = frames.records(frames.trials(profile))
    return View(
        title=f"{one_line(profile.model.name, _NAME_LIMIT)}, {profile.mode}, {profile.device}",
        verdict=one_line(profile.verdict, _SENTENCE_LIMIT),
        notes=tuple(head.notes(profile)),
        facts=tuple((label, one_line(value, 2 * _NAME_LIMIT)) for label, value in head.facts(profile) if value),
        steps=tuple(_step(row) for row in frames.records(frames.steps(profile))),
        selections=tuple(_selection(row) for row in frames.records(frames.selections(profile))),
        contests=tuple(
            _contest(number, contest, [row for row in rows if row["contest"] == number])
            for number, contest in enumerate(profile.contests, 1)
        ),
        uncalled=tuple(one_line(name, 2 * _NAME_LIMIT) for name in profile.uncalled),
        reproduce=head.again(profile),
        apply=head.code(profile, path),
    )


def _step(row: Row) -> StepLine:
    compared = row["rounds"] > 0
    return StepLine(
        step=one_line(row["step"], _NAME_LIMIT),
        original=time_text(row["original_us"]),
        tuned=time_text(row["tuned_us"]),
        ratio=ratio_text(row["ratio"], row["low"], row["high"]) if compared else NOTHING,
        reading=reading(row["ratio"], row["low"], row["high"]) if compared else "the original runs, nothing to compare",
    )


def _selection(row: Row) -> SelectionLine:
    gained = row["winner"] != ORIGINAL
    return SelectionLine(
        number=row["contest"],
        slot=one_line(row["slot"], _NAME_LIMIT),
        call=one_line(row["call"], 2 * _NAME_LIMIT),
        calls=str(row["calls"]),
        share=percent(row["share"]),
        winner=one_line(row["winner"], _NAME_LIMIT),
        gained=gained,
        original=time_text(row["original_us"]),
        time=time_text(row["winner_us"]),
        ratio=ratio_text(row["ratio"], row["low"], row["high"]) if gained else ratio_text(row["ratio"]),
        speedup=speedup_text(row["ratio"]),
    )


def _contest(number: int, contest: Contest, rows: list[Row]) -> ContestPart:
    timed = sorted((row for row in rows if row["outcome"] == "measured"), key=_by_time)
    axis = _axis(timed)
    return ContestPart(
        number=number,
        slot=one_line(contest.slot.name, _NAME_LIMIT),
        call=one_line(rows[0]["call"] if rows else "", 2 * _NAME_LIMIT),
        target=one_line(contest.slot.target, 2 * _NAME_LIMIT),
        where=_where(contest.instances),
        seen="; ".join(_seen(seen) for seen in contest.seen),
        winner=one_line(contest.selection.winner, _NAME_LIMIT),
        reason=one_line(contest.selection.reason, _SENTENCE_LIMIT),
        runners=tuple(_runner(row, contest.selection.winner, axis) for row in timed),
        refused=tuple(_refused(row) for row in rows if row["outcome"] == "rejected"),
    )


def _runner(row: Row, winner: str, axis: float) -> Runner:
    name = row["candidate"]
    note = [one_line(row["reason"] or "", _SENTENCE_LIMIT)]
    note += [] if row["deterministic"] else ["two calls gave different bits"]
    return Runner(
        candidate=one_line(name, _NAME_LIMIT),
        source=one_line(row["source"], _NAME_LIMIT),
        mark="" if name != winner else "kept" if name == ORIGINAL else "winner",
        time=time_text(row["median_us"]),
        ratio=ratio_text(row["ratio"]) if name == ORIGINAL else ratio_text(row["ratio"], row["low"], row["high"]),
        rounds=str(row["rounds"]),
        first_call=time_text(row["first_call_us"]),
        memory=bytes_text(row["peak_bytes"]),
        parity=three_digits(row["parity_margin"]) if is_figure(row["parity_margin"]) else NOTHING,
        parity_of=_parity_of(row),
        note="; ".join(part for part in note if part),
        bar=_bar(row, axis),
    )


def _refused(row: Row) -> Refused:
    return Refused(
        candidate=one_line(row["candidate"], _NAME_LIMIT),
        source=one_line(row["source"], _NAME_LIMIT),
        stage=one_line(row["stage"]),
        reason=one_line(row["reason"], _SENTENCE_LIMIT),
    )


def _parity_of(row: Row) -> str:
    if row["parity_tensor"] is None:
        return ""
    tensor = one_line(row["parity_tensor"], _NAME_LIMIT)
    closest = f"{tensor}: {row['parity_error']:.2g} of {row['parity_limit']:.2g}"
    noted = row["parity_notes"]
    return f"{closest}; noted: {one_line(noted, _SENTENCE_LIMIT)}" if noted else closest


def _axis(timed: list[Row]) -> float:
    ends: list[float] = [row["high"] for row in timed if is_figure(row["high"])]
    return min(max([1.0, *ends]), _AXIS_LIMIT) * 1.02


def _bar(row: Row, axis: float) -> Bar | None:
    if not is_figure(row["ratio"]):
        return None
    width, low, high = (round(100 * min(row[name] / axis, 1.0), 2) for name in ("ratio", "low", "high"))
    return Bar(width=width, low=low, high=high, original=round(100 / axis, 2), beyond=row["ratio"] > axis)


def _by_time(row: Row) -> tuple[bool, float]:
    known = is_figure(row["median_us"])
    return not known, float(row["median_us"]) if known else 0.0


def _where(instances: tuple[str, ...]) -> str:
    if not instances:
        return "a function, for the whole process"
    names = [one_line(name or "(the model itself)", _NAME_LIMIT) for name in instances]
    if len(names) <= _INSTANCES_SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[: _INSTANCES_SHOWN - 1])} and {len(names) - _INSTANCES_SHOWN + 1} more"


def _seen(seen: Seen) -> str:
    calls = "1 call" if seen.calls == 1 else f"{seen.calls} calls"
    return f"{one_line(seen.step, _NAME_LIMIT)}: {calls}, {percent(seen.share)} of the step"
