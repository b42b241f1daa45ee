"""Several profiles side by side: what a page that compares them shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from twinkle_tune.environment import changes as environment_changes
from twinkle_tune.measure.smallest import memory_ratio
from twinkle_tune.objective import Aim
from twinkle_tune.profile.schema import Profile, StepResult
from twinkle_tune.report import head
from twinkle_tune.report.compare import KINDS, Change, ChangeKind, Line, lines, regressions, successive
from twinkle_tune.report.plot import Plot, labels, ratio_row, step_role
from twinkle_tune.report.recommend import advice_text
from twinkle_tune.report.text import NOTHING, call_text, one_line, ratio_text, short_name
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.gain import gained

_NAME_LIMIT = 80
_TREND_FROM = 3
"""So many versions make a trend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One of the profiles: its number, from 1, the file, and facts, those for the table first."""

    number: int
    path: str
    heads: tuple[tuple[str, str], ...]
    verdict: str
    facts: tuple[tuple[str, str], ...]
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A figure of a profile in a row of the table; ``tone`` is "gain", "loss" or ""."""

    text: str
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """A step or a contest and its figure in each profile."""

    where: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeLine:
    """A change in words; ``old`` and ``new`` are the profiles' numbers."""

    old: int
    new: int
    where: str
    kind: ChangeKind
    text: str
    winners: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """A whole comparison.

    ``elsewhere`` says which neighbouring versions were measured under different conditions; ``changes`` are those
    between them, regressions first, without what is no news.
    """

    title: str
    verdict: str
    columns: tuple[Column, ...]
    elsewhere: tuple[str, ...]
    alarms: tuple[ChangeLine, ...]
    changes: tuple[ChangeLine, ...]
    same: int
    versions: int
    steps: tuple[Matched, ...]
    contests: tuple[Matched, ...]


def versus(profiles: Sequence[Profile], paths: Sequence[str]) -> Versus:
    """What there is to say of several profiles; ``paths`` are where the reader finds them."""
    pairs = [pair for line in lines(profiles) for pair in successive(line)]
    told = [_change(old, new, change) for old, new, found in pairs for change in found if change.is_news]
    told.sort(key=lambda line: (KINDS.index(line.kind), line.new))
    alarms = tuple(line for line in told if line.kind == "regression")
    return Versus(
        title=f"{len(profiles)} profiles compared",
        verdict=_verdict(pairs),
        columns=tuple(
            _column(n, profile, path) for n, (profile, path) in enumerate(zip(profiles, paths, strict=True), 1)
        ),
        elsewhere=tuple(_elsewhere(profiles, pairs)),
        alarms=alarms,
        changes=tuple(told),
        same=sum(change.kind == "same" for _, _, found in pairs for change in found),
        versions=len(pairs),
        steps=tuple(_steps(profiles)),
        contests=tuple(_contests(profiles)),
    )


def versus_plots(profiles: Sequence[Profile]) -> tuple[Plot, ...]:
    """The plots: each step in all profiles, and a trend for each line of versions."""
    trends = [plot for number, line in enumerate(lines(profiles), 1) for plot in _trend(number, line)]
    return tuple(plot for plot in [*trends, *_step_plots(profiles)] if plot.rows)


def _verdict(pairs: Sequence[tuple[int, int, tuple[Change, ...]]]) -> str:
    if not pairs:
        return (
            "No two of these profiles are versions of one thing (the same model, mode, dtype and device), "
            "so they stand side by side and nothing is called a regression."
        )
    count = sum(len(regressions(found)) for _, _, found in pairs)
    gains = sum(change.kind == "gain" for _, _, found in pairs for change in found)
    compared = "from one version to the next" if len(pairs) == 1 else f"in {len(pairs)} changes of version"
    worse = f"{count} regression{'' if count == 1 else 's'}" if count else "No regression"
    return f"{worse} and {gains} gain{'' if gains == 1 else 's'} {compared}."


def _elsewhere(profiles: Sequence[Profile], pairs: Sequence[tuple[int, int, tuple[Change, ...]]]) -> Iterator[str]:
    for old, new, _ in pairs:
        found = environment_changes(profiles[old - 1].environment, profiles[new - 1].environment)
        if found:
            told = one_line("; ".join(found), 4 * _NAME_LIMIT)
            yield f"Profiles {old} and {new} were measured differently: {told}. Compare their ratios, not their times."


def _column(number: int, profile: Profile, path: str) -> Column:
    model, here = profile.model, profile.environment
    heads = {
        "Model": f"{model.name}, {model.dtype}",
        "Mode": str(profile.mode),
        "Device": here.device_name,
        "torch": here.torch,
        "Date": profile.created[:10],
    }
    return Column(
        number=number,
        path=one_line(path, 2 * _NAME_LIMIT),
        heads=tuple((name, one_line(value, _NAME_LIMIT)) for name, value in heads.items()),
        verdict=one_line(advice_text(profile), 300),
        facts=tuple((name, one_line(value, 2 * _NAME_LIMIT)) for name, value in head.facts(profile) if value),
        command=one_line(profile.command, 600),
    )


def _change(old: int, new: int, change: Change) -> ChangeLine:
    names = [one_line(name, _NAME_LIMIT) for name in (change.winner_before, change.winner_after) if name]
    return ChangeLine(
        old=old,
        new=new,
        where=one_line(change.where, 2 * _NAME_LIMIT),
        kind=change.kind,
        text=change.text,
        winners=" → ".join(names) if len(set(names)) > 1 else "".join(names[:1]),
    )


def _steps(profiles: Sequence[Profile]) -> Iterator[Matched]:
    for label in dict.fromkeys(step.label for profile in profiles for step in profile.steps):
        cells = []
        for profile in profiles:
            step = next((each for each in profile.steps if each.label == label), None)
            if step is None:
                cells.append(Cell(text=NOTHING))
            elif not step.tuned_us:
                cells.append(Cell(text=NOTHING, detail="the original runs"))
            else:
                cells.append(_step_cell(step, profile.aim))
        yield Matched(where=one_line(label, _NAME_LIMIT), cells=tuple(cells))


def _step_cell(step: StepResult, aim: Aim) -> Cell:
    time = ratio_text(step.ratio, step.low, step.high)
    if aim.is_memory:
        peak = ratio_text(memory_ratio(step.tuned_peak_bytes, step.original_peak_bytes))
        return Cell(text=time, detail=f"memory {peak}", tone="gain" if gained(step, aim) else "")
    return Cell(text=time, tone="gain" if step.high < 1 else "loss" if step.low > 1 else "")


def _contests(profiles: Sequence[Profile]) -> Iterator[Matched]:
    # Sizes that the model never calls were only probed: they are in each profile's own report.
    tables = [{(c.slot.name, c.workload.key, c.block): c for c in p.contests if c.seen} for p in profiles]
    for key in dict.fromkeys(key for table in tables for key in table):
        cells = []
        for table in tables:
            contest = table.get(key)
            if contest is None:
                cells.append(Cell(text=NOTHING))
                continue
            chosen = contest.selection
            won = chosen.winner != ORIGINAL
            figure = ratio_text(chosen.ratio, chosen.low, chosen.high) if won else "1.000"
            cells.append(Cell(text=figure, detail=one_line(chosen.winner, _NAME_LIMIT), tone="gain" if won else ""))
        shown = next(table[key] for table in tables if key in table)
        where = f"{short_name(key[0])} {call_text(shown.workload)}"
        yield Matched(where=one_line(where, 2 * _NAME_LIMIT), cells=tuple(cells))


def _step_plots(profiles: Sequence[Profile]) -> Iterator[Plot]:
    for number, label in enumerate(dict.fromkeys(s.label for p in profiles for s in p.steps), 1):
        found = [(n, step) for n, p in enumerate(profiles, 1) for step in p.steps if step.label == label]
        names = labels(f"{n}. {profiles[n - 1].environment.device_name}" for n, _ in found)
        rows = tuple(
            ratio_row(name, step.ratio, step.low, step.high, step_role(step.low, step.high, profiles[n - 1].aim))
            for name, (n, step) in zip(names, found, strict=True)
            if step.tuned_us
        )
        yield Plot(
            name=f"step-{number}",
            kind="ratios",
            title=f"{one_line(label, 60)}: time with the winners ÷ time without, by profile",
            text="; ".join(row["tip"] for row in rows),
            rows=rows,
        )


def _trend(number: int, line: Line) -> Iterator[Plot]:
    if len(line.profiles) < _TREND_FROM:
        return
    worse = {(new, change.where) for _, new, found in successive(line) for change in regressions(found)}
    dates = labels((f"{n}. {profile.created[:10]}" for n, profile in line.profiles), 40)
    rows = [
        {
            "name": one_line(step.label, 40),
            "created": date,
            "ratio": step.ratio,
            "low": step.low,
            "high": step.high,
            "slower": (n, f"step {step.label}") in worse,
            "tip": f"{one_line(step.label, 40)}, {date}: {ratio_text(step.ratio, step.low, step.high)}",
        }
        for date, (n, profile) in zip(dates, line.profiles, strict=True)
        for step in profile.steps
    ]
    yield Plot(
        name=f"trend-{number}",
        kind="trend",
        title=f"Versions of {one_line(line.name, 100)}",
        text="; ".join(str(row["tip"]) for row in rows),
        rows=tuple(rows),
    )
