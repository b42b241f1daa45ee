"""A report as Markdown (tables as GitHub reads them)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from twinkle_tune.kernel.unlooked import YOURS
from twinkle_tune.profile.checked import uncollected
from twinkle_tune.profile.schema import Profile
from twinkle_tune.report.lines import FURTHER, ContestPart, View
from twinkle_tune.report.run_time import HEADS
from twinkle_tune.report.text import one_line
from twinkle_tune.report.view import contest_parts, view

_SAFE = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "@": "&#64;"}
    | {letter: f"\\{letter}" for letter in "\\`*_[]~#$!"}
)
_LINK_STARTS = re.compile(r"(?i)(?<=http)(s?)://|(?<=www)\.")
_LIST_START = re.compile(r"^(\d*)([.)+=-])(?=\s|[=-]|$)")


@uncollected()
def markdown_text(profile: Profile, path: str = "profile.json") -> str:
    """The whole report. ``path`` is where the reader finds the profile."""
    shown, contests = view(profile, path), list(contest_parts(profile))
    parts = [*_head(shown), *_steps(shown), *_ways(shown), *_selections(shown), *_refused(contests), *_rules(shown)]
    parts.append(escape(f"{shown.outside} {YOURS}") if shown.outside else "")
    if contests:
        parts.append(escape(shown.legend))
        parts += folded("Every contest, candidate by candidate", [part for c in contests for part in _contest(c)])
    if shown.uncalled:
        parts += folded("Slots that no step called", [_list(code(name) for name in shown.uncalled)])
    if shown.phases:
        rows = [[escape(line.phase), line.time, line.share, escape(line.longest)] for line in shown.phases]
        parts += folded("Where the run's time went", [table(HEADS, rows)])
    parts += folded("Environment", [_list(f"{label}: {escape(value)}" for label, value in shown.facts)])
    parts += [
        "## Apply it",
        fenced(shown.apply, "python"),
        "## Measure it again",
        fenced(shown.reproduce, "sh"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def folded(title: str, parts: list[str]) -> list[str]:
    """Parts that a reader unfolds; the one place with HTML of our own, which code hosts let through."""
    return [f"<details>\n<summary>{title}</summary>", *parts, "</details>"]


def escape(text: str) -> str:
    """Any text as one line of Markdown that shows it and does nothing else, inside a table too."""
    line = one_line(text).translate(_SAFE)
    # GitHub links whatever looks like an address; an entity in the middle of it leaves the text as it reads.
    line = _LINK_STARTS.sub(lambda found: found[0].replace(":", "&#58;").replace(".", "&#46;"), line)
    return _LIST_START.sub(r"\1\\\2", line)


def code(text: str) -> str:
    """A name in code type, or escaped where code type cannot hold it in a table."""
    line = one_line(text)
    return escape(line) if not line or re.search(r"[`|\\]", line) else f"`{line}`"


def fenced(text: str, language: str) -> str:
    """Lines to copy, in a fence longer than any that they hold."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell or ' ' for cell in line)} |" for line in lines)


def _head(shown: View) -> list[str]:
    return [
        f"# {escape(shown.title)}",
        f"**{escape(shown.advice)}.** {escape(shown.why)}",
        fenced("\n".join(shown.run), "sh" if shown.run[0].startswith("twinkle-tune ") else "python")
        if shown.run
        else "",
        f"{escape(shown.then)}\n\n{fenced(shown.then_run, 'sh')}" if shown.then else "",
        escape(shown.counts),
        escape(shown.line),
        "\n>\n".join(f"> {escape(note)}" for note in shown.notes),
    ]


def _steps(shown: View) -> list[str]:
    if not shown.steps:
        return []
    rows = [[code(s.step), s.original, s.tuned, s.ratio, s.memory, s.words] for s in shown.steps if s.compared]
    made = (
        [
            table(
                ["Step", "Original", "With winners", "Time ÷ original", "Peak memory (÷ original)", "Result"],
                rows,
            )
        ]
        if rows
        else []
    )
    rest = ", ".join(code(s.step) for s in shown.steps if s.is_kept)
    lines = [f"{code(s.step)}: {escape(s.amdahl)}" for s in shown.steps if s.amdahl]
    kept = f"No kernel won for {rest}: the original runs unchanged." if rest else ""
    others = [f"{code(s.step)}: {escape(s.words)}." for s in shown.steps if not s.compared and not s.is_kept]
    return ["## The whole model", escape(shown.labels), *made, kept, *others, _list(lines) if lines else ""]


def _ways(shown: View) -> list[str]:
    """The ways of running the whole model; why some have no figure is a note."""
    if not shown.ways:
        return []
    heads = [
        "Step",
        "Way",
        "Original",
        "Time",
        "Time ÷ original",
        "Peak memory (÷ original)",
        "Compiling",
        "Pays after",
    ]
    rows = [
        [
            code(w.step),
            f"**{code(w.way)}** (runs)" if w.runs else f"{code(w.way)} ({w.mark})" if w.mark else code(w.way),
            w.original,
            w.time,
            w.ratio,
            w.memory,
            w.compiling,
            w.pays,
        ]
        for w in shown.ways
    ]
    return ["## Ways of running the whole model", table(heads, rows)]


def _selections(shown: View) -> list[str]:
    """The contests that something won, by what it saves; one line for all others, which are in the fold."""
    if not shown.selections:
        return []
    won = [line for line in shown.selections if line.gained and line.called]
    heads = ["#", "Slot", "Call", "Winner", "Saves a step", "Original", "Time", "Time ÷ original", "Speed-up", "Memory"]
    rows = [
        [
            str(s.number),
            code(s.short),
            code(s.call),
            f"**{code(s.winner)}**",
            s.saves,
            s.original,
            s.time,
            s.ratio,
            s.speedup,
            s.memory,
        ]
        for s in won
    ]
    stayed = [f"{escape(text)}." for text in (shown.brief.stayed, shown.brief.probed) if text]
    return ["## What won, by what it saves", table(heads, rows) if rows else "", *stayed]


def _refused(contests: Sequence[ContestPart]) -> list[str]:
    """Refusals in short: how many candidates, by stage."""
    stages = Counter(each.stage for contest in contests for each in contest.refused)
    if not stages:
        return []
    told = ", ".join(f"{count} at {escape(stage)}" for stage, count in stages.most_common())
    return [f"Refused: {told}. The reasons are with each contest."]


def _rules(shown: View) -> list[str]:
    """What is bound for which row counts, where several were measured and something won."""
    told = [f"{code(s.slot)} ({escape(s.where)}): {escape(s.rules)}" for s in shown.shapes if s.won]
    return ["## By row count", _list(told)] if told else []


def _contest(contest: ContestPart) -> list[str]:
    told = [f"{name}: {text}" for name, text in (("Replaces", code(contest.target)), ("At", escape(contest.where)))]
    told += [f"Seen in {escape(contest.seen)}"] if contest.seen else []
    told += [f"The device: {escape(contest.conditions)}"] if contest.conditions else []
    told += [escape(contest.timed)] if contest.timed else []
    told += [
        f"**{code(contest.winner)}**: {escape(contest.reason)}" if contest.reason else f"**{code(contest.winner)}**"
    ]
    parts = [f"### {contest.number}. {escape(contest.slot)} · {escape(contest.call)}", _list(told)]
    if contest.runners:
        heads = [
            "Candidate",
            "Source",
            "Time",
            "Time ÷ original",
            "Rounds",
            "First call",
            "Memory",
            "Parity",
            "Note",
        ]
        rows = [
            [
                f"**{code(r.candidate)}** ({r.mark})" if r.mark else code(r.candidate),
                code(r.source),
                r.time,
                r.ratio,
                r.rounds,
                r.first_call,
                r.memory,
                escape(f"{r.parity} ({r.parity_of})" if r.parity_of else r.parity),
                escape(r.note),
            ]
            for r in contest.runners
        ]
        parts.append(table(heads, rows))
    if contest.further is not None:
        rows = [[code(row[0]), *map(escape, row[1:])] for row in contest.further.rows]
        parts += [f"{FURTHER}:", table(contest.further.heads, rows), *map(escape, contest.further.words)]
    if contest.refused:
        rows = [[code(r.candidate), code(r.source), escape(r.stage), escape(r.reason)] for r in contest.refused]
        parts.append(table(["Refused", "Source", "Stage", "Reason"], rows))
    parts.append(_list(map(escape, contest.untimed)))
    return parts


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
