"""A profile in five lines, and the head of its page: what ``print(profile)`` and a notebook show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html import escape

from twinkle_tune.errors import one_line
from twinkle_tune.profile.schema import Profile
from twinkle_tune.report import head
from twinkle_tune.report.recommend import advice_text, recommend, step_words
from twinkle_tune.tune.progress import contest_name, contest_result
from twinkle_tune.tune.verdict import compiled_text
from twinkle_tune.words import span

_LIMIT = 300
_WINNERS_SHOWN = 3


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
    """The head of the page, as a notebook shows it: title, what to do and why, a row for each step."""
    found = recommend(profile)
    rows = "".join(
        f"<tr><td>{_text(step.label)}</td><td>{_text(step_words(profile, step))}</td></tr>" for step in profile.steps
    )
    return (
        f"<div><h3>{_text(profile.model.name)}, {_text(profile.mode)}, {_text(profile.device)}</h3>"
        f"<p><strong>{_text(found.title)}.</strong> {_text(found.why)}</p>"
        f"<table><thead><tr><th>Step</th><th>Whole model</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<p>{_text(compiled_text(profile.compiled))}</p>"
        f"<p>Winners: {_text(_winners(profile))}<br>Contests: {_text(_contests(profile))}<br>"
        f"{_text(head.line(profile))}</p></div>"
    )


def _winners(profile: Profile) -> str:
    won = sorted(profile.winners, key=lambda c: -max((s.share * (1 - c.selection.ratio) for s in c.seen), default=0.0))
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


def _text(value: object) -> str:
    return escape(one_line(value, _LIMIT))
