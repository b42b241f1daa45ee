"""What a report says, made of the tables' figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.schema import Contest, Profile, Seen, StepResult, TimedOn
from twinkle_tune.report import head
from twinkle_tune.report.amdahl import amdahl_text, outside_text
from twinkle_tune.report.brief import Saving, brief
from twinkle_tune.report.conditions import conditions_text
from twinkle_tune.report.derive import Shapes, fate, shapes
from twinkle_tune.report.further import further_part
from twinkle_tune.report.lines import ContestPart, Margin, Refused, Runner, SelectionLine, ShapesLine, StepLine, View
from twinkle_tune.report.recommend import is_kept, recommend, uncompared, untried_text
from twinkle_tune.report.rows import Row, contest_rows, decisive, selection_rows, step_rows, times
from twinkle_tune.report.run_time import phase_lines
from twinkle_tune.report.text import (
    NOTHING,
    bytes_text,
    call_text,
    is_figure,
    memory_reading,
    one_line,
    percent,
    ratio_text,
    reading,
    short_name,
    sparkline,
    speedup_text,
    three_digits,
    time_text,
)
from twinkle_tune.report.ways import short_lines, way_lines
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.gain import gained as step_gained

_NAME_LIMIT = 80
_SENTENCE_LIMIT = 600
_INSTANCES_SHOWN = 3
_OTHERS_FIRST = 5
"""So many of the contests that the original kept stand with the winners."""
_UNCHANGED = "unchanged: the original runs"


def view(profile: Profile, path: str = "profile.json") -> View:
    """The report's text. ``path`` is where the reader finds the profile, for the lines to copy."""
    selected = zip(selection_rows(profile), profile.contests, strict=True)
    found, advice = brief(profile), recommend(profile, path)
    won = {each.number: each for each in found.winners}
    untried = untried_text(profile) if advice.kind == "apply" else ""
    lines = [_selection(row, contest, won.get(row["contest"])) for row, contest in selected]
    return View(
        title=f"{one_line(profile.model.name, _NAME_LIMIT)}, {profile.mode}, {profile.device}{head.by(profile)}",
        advice=advice.title,
        kind=advice.kind,
        why=one_line(advice.why, _SENTENCE_LIMIT),
        run=tuple(line for line in advice.run.splitlines() if line),
        then=one_line(advice.then, _SENTENCE_LIMIT),
        then_run=one_line(advice.then_run),
        counts=" ".join(filter(None, (head.contests_text(profile, counted=advice.reason != "budget"), untried))),
        labels=one_line(head.steps_text(profile), _SENTENCE_LIMIT),
        brief=found,
        outside=one_line(outside_text(profile), _SENTENCE_LIMIT),
        line=one_line(head.line(profile), 2 * _NAME_LIMIT),
        notes=tuple(head.notes(profile, advice.reason)),
        facts=tuple((label, one_line(value, _SENTENCE_LIMIT)) for label, value in head.facts(profile) if value),
        steps=tuple(
            _step(number, row, step, profile)
            for number, (row, step) in enumerate(zip(step_rows(profile), profile.steps, strict=True), 1)
        ),
        ways=tuple(way_lines(profile)),
        ways_short=short_lines(profile),
        phases=tuple(phase_lines(profile)),
        selections=_ranked(lines),
        shapes=tuple(_shapes_line(each) for each in shapes(profile)),
        uncalled=tuple(one_line(name, 2 * _NAME_LIMIT) for name in profile.uncalled),
        reproduce=head.again(profile),
        apply=head.code(profile, path),
    )


def contest_parts(profile: Profile) -> Iterator[ContestPart]:
    """Each contest in full, made when it is asked for."""
    return (contest_part(number, contest) for number, contest in enumerate(profile.contests, 1))


def _step(number: int, row: Row, step: StepResult, profile: Profile) -> StepLine:
    compared, memory, aim = row["rounds"] > 0, row["memory_ratio"], profile.aim
    kept = not compared and is_kept(profile, step)
    otherwise = _UNCHANGED if kept else one_line(uncompared(profile, step), _SENTENCE_LIMIT)
    tone = "gain" if row["high"] < 1 else "loss" if row["low"] > 1 else ""
    told = reading(row["ratio"], row["low"], row["high"])
    if aim.is_memory:
        # By memory more time is the price, and no loss.
        tone = "gain" if step_gained(step, aim) else ""
        told = f"{memory_reading(memory)}, {told}"
    return StepLine(
        number=number,
        step=one_line(row["step"], _NAME_LIMIT),
        compared=compared,
        tone=tone if compared else "",
        original=time_text(row["original_us"]),
        tuned=time_text(row["tuned_us"]),
        ratio=ratio_text(row["ratio"], row["low"], row["high"]) if compared else NOTHING,
        memory=f"{bytes_text(row['tuned_peak_bytes'])} ({ratio_text(memory)})" if is_figure(memory) else NOTHING,
        reading=told if compared else otherwise,
        words=f"{told}, {speedup_text(row['ratio'])}" if compared and tone else told if compared else otherwise,
        is_kept=kept,
        spark=_spark(step.tuned_us, step.original_us, 16),
        amdahl=amdahl_text(profile, step),
    )


def _ranked(lines: Sequence[SelectionLine]) -> tuple[SelectionLine, ...]:
    """By what they save, then by their share; a reader sees the winners and the largest of the others first."""
    ranked = sorted(lines, key=lambda line: (-(line.saved or 0.0), -(line.order[1] or 0.0), line.number))
    others = [line.number for line in ranked if not line.gained and line.order[1]][:_OTHERS_FIRST]
    return tuple(replace(line, is_first=line.gained or line.number in others) for line in ranked)


def _selection(row: Row, contest: Contest, won: Saving | None) -> SelectionLine:
    gained, race = row["winner"] != ORIGINAL, decisive(contest)
    return SelectionLine(
        number=row["contest"],
        slot=one_line(row["slot"], _NAME_LIMIT),
        short=one_line(short_name(row["slot"]), _NAME_LIMIT),
        call=one_line(row["call"], 2 * _NAME_LIMIT),
        calls=str(row["calls"]),
        share=percent(row["share"]),
        winner=one_line(row["winner"], _NAME_LIMIT),
        gained=gained,
        fate=fate(contest),
        order=tuple(
            row[name] for name in ("calls", "share", "original_us", "winner_us", "ratio", "speedup", "memory_ratio")
        ),
        original=_time(row["original_us"], contest),
        time=_time(row["winner_us"], contest),
        ratio=ratio_text(row["ratio"], row["low"], row["high"]) if gained else ratio_text(row["ratio"]),
        speedup=speedup_text(row["ratio"]),
        memory=ratio_text(row["memory_ratio"]),
        spark=_spark(times(race, row["winner"]), times(race, ORIGINAL)) if gained else "",
        saves=NOTHING if won is None else won.text,
        saved=None if won is None else won.share,
        called=bool(contest.seen),
        timed=any(isinstance(trial.outcome, Measurement) for trial in contest.trials),
    )


def _shapes_line(found: Shapes) -> ShapesLine:
    return ShapesLine(
        slot=one_line(found.slot, _NAME_LIMIT),
        where=_where(found.where),
        rules=one_line(found.text, _SENTENCE_LIMIT),
        won=bool(found.rules),
    )


def contest_part(number: int, contest: Contest) -> ContestPart:
    """One contest in full; ``number`` is its place in the profile, from 1."""
    rows = contest_rows(number, contest)
    measured = [row for row in rows if row["outcome"] == "measured"]
    # A candidate that left early was timed in other minutes than the original's median is of: its ratio is of pairs.
    original_us = {row["race"]: row["median_us"] for row in measured if row["candidate"] == ORIGINAL}
    measured = [row | {"median_us": _paired_us(row, original_us.get(row["race"]))} for row in measured]
    timed = sorted((row for row in measured if row["race"] == 1), key=_by_time)
    timed += [row for row in measured if row["race"] == 2 and row["candidate"] != ORIGINAL]
    return ContestPart(
        number=number,
        slot=one_line(contest.slot.name, _NAME_LIMIT),
        call=one_line(call_text(contest.workload), 2 * _NAME_LIMIT),
        target=one_line(contest.slot.target, 2 * _NAME_LIMIT),
        where=_where(contest.instances),
        seen="; ".join(_seen(seen) for seen in contest.seen),
        winner=one_line(contest.selection.winner, _NAME_LIMIT),
        gained=contest.selection.winner != ORIGINAL,
        fate=fate(contest),
        ratio=ratio_text(contest.selection.ratio, contest.selection.low, contest.selection.high),
        reason=one_line(contest.selection.reason, _SENTENCE_LIMIT),
        timed=_timed(contest.timed_on),
        runners=tuple(_runner(row, contest) for row in timed),
        refused=tuple(_refused(row) for row in rows if row["outcome"] == "rejected"),
        untimed=tuple(_untimed(row) for row in rows if row["outcome"] == "untimed"),
        margins=tuple(_margins(contest)),
        conditions=one_line(conditions_text(contest), _SENTENCE_LIMIT),
        further=further_part(contest),
    )


def _time(time_us: object, contest: Contest) -> str:
    """A time of the slot's call, or of the block that was timed: never the one for the other."""
    text = time_text(time_us)
    return f"{text} (block)" if contest.block and text != NOTHING else text


def _timed(timed: TimedOn | None) -> str:
    if timed is None:
        return ""
    if not timed.block:
        why = one_line(timed.why_alone, _SENTENCE_LIMIT)
        return f"Compiled and timed alone: {why}" if why else "Compiled and timed alone"
    name, path = one_line(timed.block, _NAME_LIMIT), one_line(timed.path, _NAME_LIMIT)
    calls = "1 call" if timed.calls == 1 else f"{timed.calls} calls"
    return f"Times and ratios are of {name} ({path}), compiled with the candidate in it; it makes {calls} of the slot"


def _counts(row: Row, contest: Contest) -> Iterator[str]:
    """What torch.compile came to, where that is more than for the original."""
    own = contest.trial(ORIGINAL).outcome
    breaks, again = (own.graph_breaks, own.recompilations) if isinstance(own, Measurement) else (0, 0)
    if row["graph_breaks"] > breaks:
        yield f"{row['graph_breaks']} graph breaks, the original {breaks}"
    if row["recompilations"] > again:
        yield f"compiled anew {row['recompilations']} times at calls that are alike, the original {again}"


def _runner(row: Row, contest: Contest) -> Runner:
    winner = contest.selection.winner
    name, again = row["candidate"], row["race"] == 2
    mark = "" if name != winner else "kept" if name == ORIGINAL else "winner"
    note = [one_line(row["reason"] or "", _SENTENCE_LIMIT)]
    note += [] if row["deterministic"] else ["two calls gave different bits"]
    note += _counts(row, contest)
    return Runner(
        candidate=one_line(name, _NAME_LIMIT),
        source=one_line(row["source"], _NAME_LIMIT),
        mark="timed again" if again else mark,
        time=_time(row["median_us"], contest),
        ratio=ratio_text(row["ratio"]) if name == ORIGINAL else ratio_text(row["ratio"], row["low"], row["high"]),
        rounds=str(row["rounds"]),
        first_call=time_text(row["first_call_us"]),
        memory=bytes_text(row["peak_bytes"]),
        parity=three_digits(row["parity_margin"]) if is_figure(row["parity_margin"]) else NOTHING,
        parity_of=_parity_of(row),
        note="; ".join(part for part in note if part),
    )


def _refused(row: Row) -> Refused:
    return Refused(
        candidate=one_line(row["candidate"], _NAME_LIMIT),
        source=one_line(row["source"], _NAME_LIMIT),
        stage=one_line(row["stage"]),
        reason=one_line(row["reason"], _SENTENCE_LIMIT),
    )


def _untimed(row: Row) -> str:
    """ "impl:Fast (impl): right (interpreter); not timed: the interpreter's speed says nothing"."""
    who, source = one_line(row["candidate"], _NAME_LIMIT), one_line(row["source"], _NAME_LIMIT)
    return f"{who} ({source}): {one_line(row['reason'], _SENTENCE_LIMIT)}"


def _parity_of(row: Row) -> str:
    if row["parity_tensor"] is None:
        return ""
    tensor = one_line(row["parity_tensor"], _NAME_LIMIT)
    closest = f"{tensor}: {row['parity_error']:.2g} of {row['parity_limit']:.2g}"
    noted = row["parity_notes"]
    return f"{closest}; noted: {one_line(noted, _SENTENCE_LIMIT)}" if noted else closest


def _margins(contest: Contest) -> Iterator[Margin]:
    for trial in contest.trials:
        for figure in trial.outcome.parity if isinstance(trial.outcome, Measurement) else ():
            yield Margin(
                candidate=one_line(trial.candidate, _NAME_LIMIT),
                tensor=one_line(figure.tensor, _NAME_LIMIT),
                point=str(figure.point),
                error=f"{figure.error:.3g}",
                limit=f"{figure.limit:.3g}",
                margin=three_digits(figure.error / figure.limit)
                if figure.limit > 0 and is_figure(figure.error)
                else NOTHING,
            )


def _spark(times_us: Sequence[float], original_us: Sequence[float], width: int = 8) -> str:
    """The ratio round by round; one round is no course."""
    ratios = [mine / its for mine, its in zip(times_us, original_us, strict=False)]
    return sparkline(ratios, width) if len(ratios) > 1 else ""


def _paired_us(row: Row, original_us: float | None) -> float:
    """The time of a candidate that goes with its ratio: of the original's median, in the rounds of both."""
    known = is_figure(row["ratio"]) and is_figure(original_us)
    return float(row["ratio"]) * float(original_us or 0.0) if known else float(row["median_us"])


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
