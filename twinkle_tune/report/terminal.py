"""A report for the terminal, with Rich: short, or whole. Nothing that a profile says is read as Rich markup."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from twinkle_tune.errors import TuneError, one_line
from twinkle_tune.kernel.unlooked import YOURS
from twinkle_tune.profile.schema import Profile
from twinkle_tune.report.layout import Column, command, python, table_lines, wrapped
from twinkle_tune.report.lines import ContestPart, View
from twinkle_tune.report.run_time import HEADS, PhaseLine, phase_lines
from twinkle_tune.report.terminal_contest import contest_lines
from twinkle_tune.report.versus import versus
from twinkle_tune.report.view import contest_part, contest_parts, view

FILE_WIDTH = 110
"""Columns of a report in a file, and where nothing tells how wide the terminal is."""
SHORT_LINES = 28
"""The short report has no more lines than a terminal shows at once, with two below it that say what was written."""
_NOTES = ((3, 5, 3), (2, 5, 3), (1, 5, 3), (1, 3, 3), (1, 3, 1))
"""How many notes the short form shows, in how many lines each, and the ways of how many steps: the first that fits."""
_LEAST_WINNERS = 2
_MOST_STEPS = 8

_STEPS = (
    Column(head="Step", least=10),
    Column(head="Result", least=14),
    Column(head="Original", right=True, rank=2),
    Column(head="With winners", right=True, rank=2),
    Column(head="Time ÷ original", rank=3),
    Column(head="By round", rank=5),
    Column(head="Peak memory (÷ original)", rank=4),
)
_WAYS = (
    Column(head="Step", least=10),
    Column(head="Way", least=12),
    Column(head="Time ÷ original", least=12),
    Column(head="Original", right=True, rank=3),
    Column(head="Time", right=True, rank=2),
    Column(head="Peak memory (÷ original)", rank=4),
    Column(head="Compiling", right=True, rank=2),
    Column(head="Pays after", right=True, rank=1),
)
_WINNERS = (
    Column(head="#", right=True),
    Column(head="Slot", least=8),
    Column(head="Call", rank=1, least=9),
    Column(head="Winner", least=10),
    Column(head="Saves a step", right=True),
    Column(head="By itself", rank=3),
    Column(head="Of", rank=2, least=8),
    Column(head="Time ÷ original", rank=4),
)
_PHASES = tuple(
    Column(head=head, right=right, least=least, rank=rank)
    for head, right, least, rank in zip(HEADS, (False, True, True, False), (13, 0, 0, 9), (0,) * 4, strict=True)
)
_TONES = {"gain": "green bold", "loss": "red bold"}


def print_report(
    profile: Profile, console: Console, path: str = "", *, full: bool = False, contest: int | None = None
) -> None:
    """Print the report in the console's width.

    Args:
        profile: what to report on.
        console: where to.
        path: where the reader finds the profile, for the lines to copy; "" where it is not known.
        full: every contest and the lines to copy, too; otherwise at most :data:`SHORT_LINES` lines.
        contest: one contest in full and nothing else, by its number from 1.

    Raises:
        TuneError: there is no contest of that number.
    """
    for line in _lines(profile, console.width, path, full=full, contest=contest):
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def print_phases(profile: Profile, console: Console) -> None:
    """Print where the run's time went, phase by phase."""
    for line in phase_table(tuple(phase_lines(profile)), console.width):
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def phase_table(phases: Sequence[PhaseLine], width: int) -> Iterator[Text]:
    """Where the run's time went; nothing where that was not written down."""
    if phases:
        yield from (Text(""), Text("Where the run's time went", style="bold"))
        yield from table_lines(_PHASES, [line.cells for line in phases], width)


def terminal_text(
    profile: Profile, path: str = "", *, width: int = FILE_WIDTH, full: bool = True, contest: int | None = None
) -> str:
    """The report as plain text without colours. Arguments and errors as of :func:`print_report`."""
    lines = _lines(profile, width, path, full=full, contest=contest)
    return "".join(f"{line.plain.rstrip()}\n" for line in lines)


def print_versus(profiles: Sequence[Profile], paths: Sequence[str], console: Console) -> None:
    """Print several profiles side by side: what they are of, and each step of the whole model in all of them."""
    shown, width = versus(profiles, paths), console.width
    lines = [*wrapped(shown.title, width, style="bold"), *wrapped(shown.verdict, width)]
    for column in shown.columns:
        of = ", ".join(value for _, value in column.heads)
        lines += wrapped(f"{column.number}. {column.path}: {of}", width)
    columns = [Column(head="Step", least=10), *(Column(head=str(each.number)) for each in shown.columns)]
    rows = [[row.where, *(f"{cell.text} {cell.detail}".strip() for cell in row.cells)] for row in shown.steps]
    lines += [Text(""), Text("The whole model, time ÷ original", style="bold"), *table_lines(columns, rows, width)]
    for line in lines:
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _lines(profile: Profile, width: int, path: str, *, full: bool, contest: int | None) -> Iterable[Text]:
    if contest is not None:
        return _one(profile, contest, width)
    shown = view(profile, path or "profile.json")
    if full:
        return _full(shown, contest_parts(profile), width)
    return _short(shown, width, path, notes=_NOTES)


def _short(shown: View, width: int, path: str, notes: Sequence[tuple[int, int, int]]) -> list[Text]:
    """What to do, the whole model, what won, what stayed: in as many lines as a terminal shows.

    ``notes`` are how many of them are shown, as :data:`_NOTES`: the first that fits is taken.
    """
    # Where lines wrap the most, what the labels mean is for the whole report.
    bare = replace(shown, labels="")
    forms = [(shown, notes[0]), *((bare, form) for form in notes)]
    forms.append((replace(bare, counts=re.sub(r" \([^)]*\)", "", shown.counts)), notes[-1]))
    # Where all of the model runs another way, how the single contests ended comes last.
    forms += [(replace(bare, counts=""), notes[-1])] if any(way.runs for way in shown.ways) else []
    made = [_short_lines(*forms[0], width, path)]
    for form in forms[1:]:
        if len(made[-1]) <= SHORT_LINES:
            break
        made.append(_short_lines(*form, width, path))
    return made[-1]


def _short_lines(shown: View, notes: tuple[int, int, int], width: int, path: str) -> list[Text]:
    most, lines, ways = notes
    head = [*wrapped(shown.line, width, style="dim"), *_head(shown, width, notes=most, most=lines * width)]
    head += [*_steps(shown, width), *_ways_short(shown, width, most=ways)]
    tail: list[Text] = []
    # Another way of running the model takes in what kept its original, and what no kernel is offered for.
    if not any(way.runs for way in shown.ways):
        tail = [Text(""), *_stayed(shown, width)] if shown.brief.stayed or shown.brief.probed else []
        tail += wrapped(shown.outside, width, style="dim") if shown.outside else []
    tail += _more(shlex.join(["twinkle-tune", "report", path or "PROFILE", "--full"]), width)
    room = SHORT_LINES - len(head) - len(tail)
    return _fitting([*head, *_winners(shown, width, most=max(room - 4, _LEAST_WINNERS)), *tail])


def _more(report: str, width: int) -> list[Text]:
    for line in (f"More: {report} (or --contest N, or --format html)", f"More: {report}"):
        if cell_len(line) <= width:
            return [Text(line, style="dim")]
    return [Text("More:", style="dim"), *command(report, width)]


def _fitting(lines: list[Text]) -> list[Text]:
    """The lines without so many of the empty ones, the last first, as they are too many."""
    kept = list(reversed(lines))
    for line in [each for each in kept if not each.plain]:
        if len(kept) > SHORT_LINES:
            kept = [each for each in kept if each is not line]
    return kept[::-1]


def _full(shown: View, contests: Iterable[ContestPart], width: int) -> Iterator[Text]:
    yield from wrapped(shown.title, width, style="bold")
    yield from wrapped(shown.line, width, style="dim")
    yield from _head(shown, width, notes=len(shown.notes))
    yield from _facts(shown, width)
    yield from _steps(shown, width)
    yield from _ways(shown, width)
    for step in shown.steps:
        if step.amdahl:
            yield from wrapped(f"{step.step}: {step.amdahl}", width, style="dim")
    yield from _winners(shown, width, most=len(shown.selections))
    yield Text("")
    yield from _stayed(shown, width)
    if shown.outside:
        yield from wrapped(f"{shown.outside} {YOURS}", width, style="dim")
    for contest in contests:
        yield from contest_lines(contest, width)
    if shown.selections:
        yield Text("")
        yield from wrapped(shown.legend, width, style="dim")
    if shown.uncalled:
        yield Text("")
        yield from wrapped(f"Never called: {', '.join(shown.uncalled)}", width)
    yield from phase_table(shown.phases, width)
    for title, copied in (("Apply it", shown.apply), ("Measure it again", shown.reproduce)):
        yield from (Text(""), Text(title, style="bold"))
        yield from _copied(copied.splitlines(), width)


def _one(profile: Profile, number: int, width: int) -> list[Text]:
    if not 1 <= number <= len(profile.contests):
        raise TuneError(
            f"report: --contest: got {number}, expected 1 to {len(profile.contests)}, the contests of this profile"
        )
    return [*contest_lines(contest_part(number, profile.contests[number - 1]), width)][1:]


def _head(shown: View, width: int, *, notes: int, most: int | None = None) -> Iterator[Text]:
    yield from wrapped(f"{shown.advice}. {shown.why}" if shown.advice else shown.why, width, style="bold")
    yield from _copied(shown.run, width)
    if shown.then:
        yield from wrapped(shown.then, width)
        yield from _copied([shown.then_run], width)
    if shown.counts:
        yield from wrapped(shown.counts, width)
    for note in shown.notes[:notes]:
        yield from wrapped(one_line(note, most), width, style="yellow")
    if len(shown.notes) > notes:
        more = len(shown.notes) - notes
        yield Text(f"{more} more note{'' if more == 1 else 's'}: --full", style="yellow")


def _copied(lines: Iterable[str], width: int) -> Iterator[Text]:
    for line in lines:
        yield from (command if line.startswith("twinkle-tune ") else python)(line, width)


def _facts(shown: View, width: int) -> Iterator[Text]:
    widest = max(len(label) for label, _ in shown.facts) + 2
    for label, value in shown.facts:
        first, *rest = wrapped(value, width, indent=widest)
        yield Text(label.ljust(widest), style="dim").append(first.plain.strip(), style="not dim")
        yield from rest


def _steps(shown: View, width: int) -> Iterator[Text]:
    if not shown.steps:
        return
    rows = [
        (
            step.step,
            Text(step.words, style=_TONES.get(step.tone, "")),
            step.original,
            step.tuned,
            step.ratio,
            step.spark,
            step.memory,
        )
        for step in shown.steps[:_MOST_STEPS]
    ]
    yield from (Text(""), Text("The whole model", style="bold"))
    if shown.labels:
        yield from wrapped(shown.labels, width, style="dim")
    yield from table_lines(_STEPS, rows, width)
    if len(shown.steps) > _MOST_STEPS:
        yield Text(f"{len(shown.steps) - _MOST_STEPS} more steps: --format html", style="dim")


def _ways_short(shown: View, width: int, *, most: int) -> Iterator[Text]:
    head, *steps = shown.ways_short or ("",)
    yield from wrapped(head, width, style="dim") if head else ()
    for line in steps[:most]:
        yield from wrapped(line, width, style="dim")
    if len(steps) > most:
        yield Text(f"{len(steps) - most} more step{'' if len(steps) - most == 1 else 's'}: --full", style="dim")


def _ways(shown: View, width: int) -> Iterator[Text]:
    """Every way of running the whole model; why some have no figure is a note."""
    if not shown.ways:
        return
    yield from (Text(""), Text("Ways of running the whole model", style="bold"))
    rows = [
        (
            way.step,
            Text(f"{way.way} ({way.mark})" if way.mark else way.way, style=_TONES["gain"] if way.runs else ""),
            way.ratio,
            way.original,
            way.time,
            way.memory,
            way.compiling,
            way.pays,
        )
        for way in shown.ways
    ]
    yield from table_lines(_WAYS, rows, width)


def _winners(shown: View, width: int, *, most: int) -> Iterator[Text]:
    winners = shown.brief.winners
    if not winners:
        return
    some = f": {most} of {len(winners)}" if len(winners) > most else ""
    by_itself = " by itself; it runs where no way does" if any(way.runs for way in shown.ways) else ""
    yield from (Text(""), Text(f"What won{by_itself or ', by what it saves'}{some}", style="bold"))
    rows = [
        (
            str(each.number),
            each.slot,
            each.call,
            Text(each.winner, style="green bold"),
            each.text,
            each.gain,
            each.step,
            each.ratio,
        )
        for each in winners[:most]
    ]
    yield from table_lines(_WINNERS, rows, width)


def _stayed(shown: View, width: int) -> Iterator[Text]:
    if shown.brief.stayed:
        yield from wrapped(f"{shown.brief.stayed}.", width)
    if shown.brief.probed:
        yield from wrapped(f"{shown.brief.probed}.", width, style="dim")
