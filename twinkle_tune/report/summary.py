"""A profile in five lines, and the head of its page: what ``print(profile)`` and a notebook show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape

from twinkle_tune.errors import one_line
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.report import head
from twinkle_tune.report.recommend import advice_text, recommend, step_words
from twinkle_tune.report.text import ratio_text
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.progress import contest_name, contest_result
from twinkle_tune.tune.verdict import compiled_text
from twinkle_tune.words import short_name, span
from twinkle_tune.workload import call_text

_LIMIT = 300
_WINNERS_SHOWN = 3
_ROWS = 12
"""Of contests, in a notebook."""


def summary_text(profile: Profile) -> str:
    """Five lines: what was profiled, what to do and why, the whole model, the winners, the contests."""
    found = recommend(profile)
    lines = (
        head.line(profile),
        advice_text(profile),
        " ".join((f"Whole model: {found.whole or 'not run'}", compiled_text(profile.compiled))).strip(),
        f"Winners: {_winners(profile)}",
        f"Contests: {_contests(profile)}",
    )
    return "\n".join(one_line(line, _LIMIT) for line in lines)


def summary_html(profile: Profile) -> str:
    """The head of the page, as a notebook shows it: title, what to do and why, a row for each step and each contest."""
    found = recommend(profile)
    rows = "".join(
        f"<tr><td>{_text(step.label)}</td><td>{_text(step_words(profile, step))}</td></tr>" for step in profile.steps
    )
    mode = f"{profile.mode}{head.under(profile)}"
    return (
        f"<div><h3>{_text(profile.model.name)}, {_text(mode)}, {_text(profile.device)}</h3>"
        f"<p><strong>{_text(found.title)}.</strong> {_text(found.why)}</p>"
        f"<table><thead><tr><th>Step</th><th>Whole model</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<p>{_text(compiled_text(profile.compiled))}</p>"
        f"{_contests_table(profile)}"
        f"<p>Contests: {_text(_contests(profile))}<br>{_text(head.line(profile))}</p></div>"
    )


def _contests_table(profile: Profile) -> str:
    """A row for each contest, those that save most first; at most so many."""
    ordered = _by_savings(profile.contests)
    heads = "".join(f"<th>{name}</th>" for name in ("Slot", "Call", "Winner", "Time over the original's", "Share"))
    rows = "".join(
        f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in _cells(each))}</tr>" for each in ordered[:_ROWS]
    )
    more = f"<p>{len(ordered) - _ROWS} more contests</p>" if len(ordered) > _ROWS else ""
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{more}" if rows else ""


def _cells(contest: Contest) -> tuple[str, ...]:
    chosen, share = contest.selection, max((seen.share for seen in contest.seen), default=0.0)
    won = chosen.winner != ORIGINAL
    time = ratio_text(chosen.ratio, chosen.low, chosen.high) if won else ""
    return (short_name(contest.slot.name), call_text(contest.workload), contest_result(contest), time, f"{share:.1%}")


def _by_savings(contests: Iterable[Contest]) -> list[Contest]:
    return sorted(contests, key=lambda c: -max((s.share * (1 - c.selection.ratio) for s in c.seen), default=0.0))


def _winners(profile: Profile) -> str:
    won = _by_savings(profile.winners)
    shown = [f"{contest_name(contest)}: {contest_result(contest)}" for contest in won[:_WINNERS_SHOWN]]
    more = len(won) - len(shown)
    return "; ".join(shown) + (f" and {more} more" if more > 0 else "") if shown else "none"


def _contests(profile: Profile) -> str:
    return "; ".join(_parts(profile))


def _parts(profile: Profile) -> Iterator[str]:
    counts = Counter(contest.status for contest in profile.contests)
    yield ", ".join(f"{count} {status}" for status, count in counts.most_common()) or "none"
    if profile.run is not None:
        budget = "" if profile.run.budget_s is None else f" (budget {span(profile.run.budget_s)})"
        yield f"took {span(profile.run.took_s)}{budget}"
        if profile.run.started_from:
            yield f"started from {profile.run.started_from}"


def _text(value: object) -> str:
    return escape(one_line(value, _LIMIT))
