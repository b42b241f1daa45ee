"""One contest in full, as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.text import Text

from twinkle_tune.report.layout import Column, table_lines, wrapped
from twinkle_tune.report.lines import FURTHER, ContestPart, Runner

_RUNNERS = (
    Column(head="Candidate", least=10),
    Column(head="Source", rank=4),
    Column(head="Time", right=True, rank=1),
    Column(head="Time ÷ original"),
    Column(head="Rounds", right=True, rank=3),
    Column(head="First call", right=True, rank=6),
    Column(head="Memory", right=True, rank=5),
    Column(head="Parity", right=True, rank=2),
)


def contest_lines(contest: ContestPart, width: int) -> Iterator[Text]:
    """What it is of, who was timed, and why the others were not."""
    yield Text("")
    yield from wrapped(f"{contest.number}. {contest.slot} · {contest.call}", width, style="bold")
    for line in (
        f"Replaces {contest.target}",
        f"At {contest.where}",
        f"Seen in {contest.seen}" if contest.seen else "The model never called this size: it was only tried",
        contest.conditions and f"The device: {contest.conditions}",
        contest.timed,
    ):
        if line:
            yield from wrapped(line, width, indent=2, style="dim")
    yield from wrapped(f"{contest.winner}: {contest.reason}" if contest.reason else contest.winner, width, indent=2)
    yield from _runners(contest.runners, width)
    if contest.further is not None:
        yield from wrapped(FURTHER, width, indent=2, style="dim")
        columns = [Column(head=head, rank=n, least=8 if n == 0 else 0) for n, head in enumerate(contest.further.heads)]
        yield from table_lines(columns, contest.further.rows, width, indent=2)
        for words in contest.further.words:
            yield from wrapped(words, width, indent=2, style="yellow")
    for refused in contest.refused:
        told = f"refused {refused.candidate} ({refused.source}), {refused.stage}: {refused.reason}"
        yield from wrapped(told, width, indent=2)
    for told in contest.untimed:
        yield from wrapped(told, width, indent=2)


def _runners(runners: Iterable[Runner], width: int) -> Iterator[Text]:
    """The candidates that were timed, a line each; what is noted of one stands below it."""
    shown = list(runners)
    if not shown:
        return
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
        )
        for runner in shown
    ]
    heads, *lines = table_lines(_RUNNERS, rows, width, indent=2)
    yield heads
    for line, runner in zip(lines, shown, strict=True):
        yield line
        if runner.note:
            yield from wrapped(runner.note, width, indent=6, style="dim")
