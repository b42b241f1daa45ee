"""A report for the terminal, with Rich. Nothing that a profile says is read as Rich markup."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from twinkle_tune.profile.schema import Profile
from twinkle_tune.report.lines import FURTHER, ContestPart, StepLine, View
from twinkle_tune.report.text import NOTHING, one_line
from twinkle_tune.report.view import view

_FILE_WIDTH = 110
_CALL_WIDTH = 22


def print_report(profile: Profile, console: Console, path: str = "profile.json", *, details: bool = True) -> None:
    """Print the report.

    Args:
        profile: what to report on.
        console: where to.
        path: where the reader finds the profile, for the lines to copy.
        details: every contest's candidates and the lines to copy, too; False for the short form.
    """
    shown = view(profile, path)
    _print_head(shown, console, facts=details)
    if any(step.compared for step in shown.steps):
        console.print("", _steps(shown, console.width), sep="\n")
    rest = [step.step for step in shown.steps if not step.compared]
    if rest:
        console.print(Text(f"\nThe original runs, nothing to compare: {', '.join(rest)}"))
    for step in shown.steps:
        if step.amdahl and (details or step.compared):
            console.print(Text(f"{step.step}: {step.amdahl}", style="dim"))
    if shown.selections:
        console.print("", _selections(shown, console.width), sep="\n")
    if not details:
        return
    for contest in shown.contests:
        _print_contest(contest, console)
    if shown.contests:
        console.print(Text(f"\n{shown.legend}", style="dim"))
    if shown.uncalled:
        console.print(Text("\nNever called: ", style="bold").append(", ".join(shown.uncalled), style="not bold"))
    for title, lines in (("Apply it", shown.apply), ("Measure it again", shown.reproduce)):
        console.print(Text(f"\n{title}", style="bold"))
        console.print(_indented(Text(lines)))


def terminal_text(profile: Profile, path: str = "profile.json") -> str:
    """The report as plain text for a file: no colours, 110 columns."""
    console = Console(file=io.StringIO(), width=_FILE_WIDTH, color_system=None, force_terminal=False)
    with console.capture() as captured:
        print_report(profile, console, path)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _print_head(shown: View, console: Console, *, facts: bool) -> None:
    console.print(Text(shown.title, style="bold"))
    console.print(Text(shown.verdict))
    for note in shown.notes:
        console.print(Text(note, style="yellow"))
    if not facts:
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in shown.facts:
        table.add_row(label, Text(value))
    console.print(table)


def _steps(shown: View, width: int) -> Table:
    rows = [
        (step.step, step.original, step.tuned, step.ratio, step.spark, step.memory, _toned(step))
        for step in shown.steps
        if step.compared
    ]
    if width >= _FILE_WIDTH:
        return _table(
            "The whole model",
            ("Step", "Original>", "Tuned>", "Time ÷ original|", "By round|", "Peak memory|", "Result"),
            rows,
        )
    narrow = [(step, ratio, spark, result) for step, _, _, ratio, spark, _, result in rows]
    return _table("The whole model", ("Step", "Time ÷ original|", "By round|", "Result"), narrow)


def _toned(step: StepLine) -> Text:
    return Text(step.reading, style={"gain": "green bold", "loss": "red bold"}.get(step.tone, ""))


def _selections(shown: View, width: int) -> Table:
    """The winners, a line each where the terminal is wide enough; a narrow one is spared what the details tell too."""
    heads = ["#>", "Slot", "Call|", "Share>", "Winner", "Time>", "Time ÷ original|", "By round|", "Memory|"]
    rows: list[list[str | Text]] = [
        [
            str(line.number),
            line.short,
            one_line(line.call.partition(", ")[0], _CALL_WIDTH),
            line.share,
            Text(line.winner, style="green bold" if line.gained else ""),
            line.time,
            line.ratio,
            line.spark,
            line.memory,
        ]
        for line in shown.selections
    ]
    if width >= _FILE_WIDTH:
        return _table("What won", heads, rows)
    narrow = [
        [slot, call[call.find("[") :], winner, ratio, memory]
        for _, slot, call, _, winner, _, ratio, _, memory in map(_plain, rows)
    ]
    return _table("What won", ("Slot", "Call|", "Winner", "Time ÷ original|", "Memory|"), narrow)


def _plain(row: Sequence[str | Text]) -> list[str]:
    return [cell if isinstance(cell, str) else cell.plain for cell in row]


def _print_contest(contest: ContestPart, console: Console) -> None:
    console.print(Text(f"\n{contest.number}. {contest.slot} · {contest.call}", style="bold"))
    for line in (
        f"Replaces {contest.target}",
        f"At {contest.where}",
        contest.seen and f"Seen in {contest.seen}",
        contest.conditions and f"The device: {contest.conditions}",
        contest.timed,
    ):
        if line:
            console.print(_indented(Text(line, style="dim")))
    chosen = Text(contest.winner, style="green")
    console.print(_indented(chosen.append(f": {contest.reason}" if contest.reason else "", style="default")))
    if contest.runners:
        heads = (
            "Candidate",
            "Source",
            "Time>",
            "Time ÷ original|",
            "Rounds>",
            "First call>",
            "Memory>",
            "Parity>",
            "Note",
        )
        rows = [
            (
                f"{runner.candidate} ({runner.mark})" if runner.mark else runner.candidate,
                runner.source,
                runner.time,
                runner.ratio,
                runner.rounds,
                runner.first_call,
                runner.memory,
                runner.parity,
                runner.note,
            )
            for runner in contest.runners
        ]
        console.print(_table(None, heads, rows))
    if contest.further is not None:
        console.print(_indented(Text(FURTHER, style="dim")))
        console.print(_table(None, [f"{head}|" for head in contest.further.heads], contest.further.rows))
        for words in contest.further.words:
            console.print(_indented(Text(words, style="yellow")))
    for refused in contest.refused:
        told = Text(f"refused {refused.candidate} ({refused.source})", style="yellow")
        console.print(_indented(told.append(f", {refused.stage}: {refused.reason}", style="default")))


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 2))


def _table(title: str | None, heads: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table; columns that are empty are left out.

    A head that ends in ">" has its column set to the right, one that ends in "|" or ">" is never wrapped.
    """
    lines = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    used = [index for index in range(len(heads)) if any(line[index].plain not in ("", NOTHING) for line in lines)]
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for index in used:
        name = heads[index].rstrip(">|")
        right = heads[index].endswith(">")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != heads[index], overflow="fold")
    for line in lines:
        table.add_row(*(line[index] for index in used))
    return table
