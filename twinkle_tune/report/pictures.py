"""Two pictures of a whole step: one bar for why it is no faster, and the step as a timeline."""

from __future__ import annotations

from collections.abc import Iterator

from twinkle_tune.outcome import UNDECIDED
from twinkle_tune.profile.schema import Profile, StepResult
from twinkle_tune.report.amdahl import amdahl
from twinkle_tune.report.charts import WHY
from twinkle_tune.report.plot import LABEL, Plot, labels
from twinkle_tune.report.rows import Row
from twinkle_tune.report.text import one_line, percent, time_text
from twinkle_tune.report.trace import OUTSIDE, spans

_OPEN = ("no clear winner", *UNDECIDED)


def why_parts(profile: Profile, step: StepResult) -> tuple[float, float, float, float]:
    """Shares of a step, 0 to 1, in the order of :data:`WHY`: they add up to 1."""
    found = amdahl(profile, step)
    saved = min(max(found.promised, 0.0), found.covered)
    left = found.covered - saved
    held = [contest for contest in profile.contests if contest.status != "won"]
    of = {True: 0.0, False: 0.0}
    for contest in held:
        of[contest.status in _OPEN] += sum(seen.share for seen in contest.seen if seen.step == step.label)
    # A slot inside another one counts in both: the parts are scaled to what is left inside of slots.
    undecided = left * of[True] / sum(of.values()) if of[True] else 0.0
    return saved, left - undecided, undecided, 1 - found.covered


def why(profile: Profile) -> Iterator[Plot]:
    """A bar a step: saved, replaceable and as before, undecided, not replaceable."""
    found = [(step.label, why_parts(profile, step)) for step in profile.steps]
    covered = [(label, parts) for label, parts in found if parts[-1] < 1]
    rows: list[Row] = []
    for name, (_, parts) in zip(labels(label for label, _ in covered), covered, strict=True):
        start = 0.0
        for part, share in zip(WHY, parts, strict=True):
            if share > 0:
                told = f"{name}, {part}: {percent(share)}"
                rows.append({"name": name, "part": part, "from": start, "to": start + share, "tip": told})
            start += share
    yield Plot(
        name="why",
        kind="why",
        title="Where the time goes",
        text="; ".join(row["tip"] for row in rows),
        rows=tuple(rows),
    )


def timelines(profile: Profile) -> Iterator[Plot]:
    """Each step as a timeline, without and with the winners."""
    for number, step in enumerate(profile.steps, 1):
        found = spans(profile, step)
        yield Plot(
            name=f"timeline-{number}",
            kind="timeline",
            title=f"{one_line(step.label, 60)} as a timeline: each slot's calls together, the largest first",
            text="; ".join(f"{s.lane}, {s.name}: {time_text(s.length_us)}" for s in found),
            rows=tuple(
                {
                    "lane": span.lane,
                    "name": one_line(span.name, LABEL),
                    "depth": span.depth,
                    "from": span.start_us / 1000,
                    "to": (span.start_us + span.length_us) / 1000,
                    "tip": f"{span.name} ({span.winner}): {time_text(span.length_us)}, {span.calls} calls",
                }
                # What lies outside comes first: the first name has the pale colour.
                for span in sorted(found, key=lambda span: span.name != OUTSIDE)
            ),
        )
