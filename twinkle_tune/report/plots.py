"""What each plot of a report shows, as rows of plain values; :mod:`twinkle_tune.report.charts` gives them a form."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.report import frames
from twinkle_tune.report.derive import Shapes, parts, rules_text, shapes
from twinkle_tune.report.look import SERIES
from twinkle_tune.report.margin import closest
from twinkle_tune.report.pictures import timelines, why
from twinkle_tune.report.plot import LABEL, Plot, labels, ratio_row, step_role
from twinkle_tune.report.rows import Row, contest_rows, step_rows
from twinkle_tune.report.run_time import run_plot
from twinkle_tune.report.text import (
    bytes_text,
    is_figure,
    one_line,
    percent,
    ratio_text,
    short_name,
    three_digits,
    time_text,
)
from twinkle_tune.report.ways import way_plots
from twinkle_tune.slot import ORIGINAL

_TIP = 300
_ROWS = 12
"""Plots over all contests show so many: the tables have the rest."""


def plots(profile: Profile) -> Iterator[Plot]:
    """Every plot of a profile's report that has data, in the report's order, made when it is asked for.

    First those of whole steps, then one a contest, last those over all contests, and the run itself.
    """
    contests = (_contest(number, contest) for number, contest in enumerate(profile.contests, 1))
    by_shape = (_shapes(number, each) for number, each in enumerate(shapes(profile), 1))
    found = chain(
        _steps(profile), way_plots(profile), why(profile), timelines(profile), _parts(profile),
        contests, by_shape, _memory(profile), _parity(profile), run_plot(profile),
    )  # fmt: skip
    return (plot for plot in found if plot.rows)


def _contest(number: int, contest: Contest) -> Plot:
    """A contest: candidates from the fastest to the slowest, then the refused ones with stage and reason."""
    rows = contest_rows(number, contest)
    timed = sorted((row for row in rows if is_figure(row["median_us"])), key=lambda row: float(row["median_us"]))
    timed = [row for row in timed if row["race"] == 1 or row["candidate"] != ORIGINAL]
    refused = [row for row in rows if row["outcome"] == "rejected"]
    unpaired = [row for row in timed if not is_figure(row["ratio"])]
    timed = [row for row in timed if is_figure(row["ratio"])]
    names = labels(
        row["candidate"] if row["race"] == 1 else f"{row['candidate']}, again" for row in [*timed, *unpaired, *refused]
    )
    drawn = [
        ratio_row(name, row["ratio"], row["low"], row["high"], _role(row, contest.selection.winner))
        for name, row in zip(names, timed, strict=False)
    ]
    for name, row in zip(names[len(timed) :], [*unpaired, *refused], strict=True):
        why = f"refused, {row['stage']}: {row['reason']}" if row["stage"] else f"{time_text(row['median_us'])}, no pair"
        drawn.append({"name": name, "ratio": None, "role": "other", "text": one_line(why, 90), "tip": why[:_TIP]})
    slot = one_line(contest.slot.name, 60)
    return Plot(
        name=f"contest-{number}",
        kind="ratios",
        title=f"{number}. {slot}: time ÷ original of each candidate",
        text=f"{len(timed)} candidates timed, {len(refused)} refused; the table below has the figures",
        rows=tuple(drawn),
    )


def _role(row: Row, winner: str) -> str:
    if row["candidate"] == ORIGINAL:
        return "original"
    return "winner" if row["candidate"] == winner else "other"


def _steps(profile: Profile) -> Iterator[Plot]:
    rows = [row for row in step_rows(profile) if row["rounds"]]
    names = labels(row["step"] for row in rows)
    yield Plot(
        name="steps",
        kind="ratios",
        title="The whole model: time with the winners ÷ time without",
        text="; ".join(
            f"{one_line(row['step'], LABEL)}: {ratio_text(row['ratio'], row['low'], row['high'])}" for row in rows
        ),
        rows=tuple(
            ratio_row(name, row["ratio"], row["low"], row["high"], step_role(row["low"], row["high"], profile.aim))
            for name, row in zip(names, rows, strict=True)
        ),
    )


def _parts(profile: Profile) -> Iterator[Plot]:
    for number, (step, table) in enumerate(parts(profile).groupby("step", sort=False), 1):
        rows = frames.records(table)[: _ROWS + 1]
        # Where nothing was changed there is no second bar to draw.
        moments = ("before", "after") if any(row["before"] != row["after"] for row in rows) else ("before",)
        names = labels(short_name(row["slot"]) for row in rows)
        yield Plot(
            name=f"parts-{number}",
            kind="parts",
            title=f"{one_line(step, 60)}: share of the step's time, {' and '.join(moments)}",
            text="; ".join(
                f"{name}: {', '.join(f'{percent(row[when])} {when}' for when in moments)}"
                for name, row in zip(names, rows, strict=True)
            ),
            rows=tuple(
                {
                    "name": name,
                    "when": when,
                    "share": row[when],
                    "text": percent(row[when]),
                    "tip": f"{name}: {percent(row[when])} {when}",
                }
                for name, row in zip(names, rows, strict=True)
                for when in moments
            ),
            changed=len(moments) > 1,
        )


def _shapes(number: int, found: Shapes) -> Plot:
    rows = [
        (contest.workload.rows, row)
        for index, contest in found.contests
        for row in contest_rows(index, contest)
        if row["race"] == 1 and is_figure(row["ratio"]) and row["candidate"] != ORIGINAL and contest.workload.rows > 0
    ]
    candidates = list(dict.fromkeys(row["candidate"] for _, row in rows))[:SERIES]
    short = dict(zip(candidates, labels(candidates), strict=True))
    most = max((count for count, _ in rows), default=1)
    drawn: list[Row] = [
        ratio_row(short[row["candidate"]], row["ratio"], row["low"], row["high"], "other")
        | {"what": "point", "rows": count, "tip": f"{short[row['candidate']]} at {count} rows: {row['ratio']:.3f}"}
        for count, row in rows
        if row["candidate"] in short
    ]
    drawn += [
        {
            "what": "range",
            "name": short[rule.winner.candidate],
            "rows": max(rule.low, 1),
            "to": min(rule.high, most),
            "tip": one_line(rules_text([rule]), _TIP),
        }
        for rule in found.rules
        if rule.winner.candidate in short
    ]
    return Plot(
        name=f"shapes-{number}",
        kind="shapes",
        title=f"{one_line(found.slot, 60)}: speed against the number of rows",
        text=f"bound: {one_line(found.text, _TIP)}",
        rows=tuple(drawn),
    )


def _memory(profile: Profile) -> Iterator[Plot]:
    taken: dict[int, list[tuple[str, int]]] = {}
    for number, contest, candidate, outcome in _measured(profile):
        if outcome.peak_bytes is not None and candidate in (ORIGINAL, contest.selection.winner):
            taken.setdefault(number, []).append((candidate, outcome.peak_bytes))
    largest = {number: max(size for _, size in each) for number, each in taken.items()}
    order = sorted((number for number in largest if largest[number]), key=lambda number: -largest[number])[:_ROWS]
    rows = [
        {
            "name": one_line(f"{number}. {short_name(profile.contests[number - 1].slot.name)}", LABEL),
            "role": "original" if candidate == ORIGINAL else "winner",
            "mib": size / 2**20,
            "text": bytes_text(size),
            "tip": f"{one_line(candidate, 60)}: {bytes_text(size)}",
        }
        for number in order
        for candidate, size in taken[number]
    ]
    known_of = sum(size > 0 for size in largest.values())
    text = f"the {_ROWS} of {known_of} contests that take most" if known_of > _ROWS else "every contest that takes any"
    yield Plot(name="memory", kind="memory", title="Memory of one call", text=text, rows=tuple(rows))


def _parity(profile: Profile) -> Iterator[Plot]:
    judged = [
        (margin, number, contest.selection.winner, candidate, found["parity_tensor"])
        for number, contest, candidate, outcome in _measured(profile)
        for found in [closest(outcome.parity)]
        for margin in [found.get("parity_margin")]
        if isinstance(margin, float)
    ]
    judged.sort(key=lambda each: -each[0])
    shown = judged[:_ROWS]
    names = labels((f"{number}. {candidate}" for _, number, _, candidate, _ in shown), 2 * LABEL)
    rows = [
        {
            "name": name,
            "margin": margin,
            "role": "winner" if candidate == winner else "other",
            "tip": f"{name}, {one_line(tensor, 60)}: {three_digits(margin)}",
        }
        for name, (margin, _, winner, candidate, tensor) in zip(names, shown, strict=True)
    ]
    text = "every timed candidate that was compared"
    if len(judged) > _ROWS:
        text = f"the {_ROWS} of {len(judged)} timed candidates that came closest to their limit"
    yield Plot(name="parity", kind="parity", title="Parity: error ÷ limit", text=text, rows=tuple(rows))


def _measured(profile: Profile) -> Iterator[tuple[int, Contest, str, Measurement]]:
    """What was measured in the first race of each contest: its number, the contest, the candidate and its figures."""
    for number, contest in enumerate(profile.contests, 1):
        for trial in contest.trials:
            if isinstance(trial.outcome, Measurement):
                yield number, contest, trial.candidate, trial.outcome
