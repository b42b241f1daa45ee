"""Where the time of the run went that made a profile: by phase, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from twinkle_tune.profile.run import Phase, RunSpan
from twinkle_tune.profile.schema import Profile
from twinkle_tune.report.plot import Plot
from twinkle_tune.report.text import one_line, percent
from twinkle_tune.words import span

_NAME_LIMIT = 60
_MOST = 2
"""So many names stand beside a phase: those that took longest."""
HEADS = ("Phase", "Time", "Share", "Longest")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseLine:
    """One phase of a run.

    Attributes:
        phase: its name.
        time: all that it took.
        share: of the run.
        longest: what took longest in it, with its time; "" for a phase of nothing in particular.
    """

    phase: str
    time: str
    share: str
    longest: str

    @property
    def cells(self) -> tuple[str, ...]:
        """As :data:`HEADS` names them."""
        return self.phase, self.time, self.share, self.longest


def phase_lines(profile: Profile) -> Iterator[PhaseLine]:
    """The phases that took any time, in the order in which a run begins with them; nothing of an older profile."""
    spans = _spans(profile)
    whole_s = sum(each.took_s for each in spans)
    for phase in get_args(Phase):
        own = [each for each in spans if each.phase == phase]
        took_s = sum(each.took_s for each in own)
        if took_s > 0:
            yield PhaseLine(
                phase=phase, time=span(took_s), share=percent(took_s / whole_s), longest=", ".join(_longest(own))
            )


def run_plot(profile: Profile) -> Iterator[Plot]:
    """The run from its beginning to its end, a lane for each phase."""
    spans = [each for each in _spans(profile) if each.took_s > 0]
    order = {phase: place for place, phase in enumerate(get_args(Phase))}
    yield Plot(
        name="run",
        kind="run",
        title="Where the run's time went",
        text="; ".join(f"{line.phase}: {line.time} ({line.share})" for line in phase_lines(profile)),
        rows=tuple(
            {
                "name": each.phase,
                "from": each.begin_s,
                "to": round(each.begin_s + each.took_s, 1),
                "tip": f"{each.phase}{f', {each.name}' if each.name else ''}: {span(each.took_s)}",
            }
            for each in sorted(spans, key=lambda each: (order[each.phase], each.begin_s))
        ),
    )


def _spans(profile: Profile) -> Sequence[RunSpan]:
    return () if profile.run is None else profile.run.spans


def _longest(spans: Sequence[RunSpan]) -> Iterator[str]:
    by_name: dict[str, float] = {}
    for each in spans:
        by_name[each.name] = by_name.get(each.name, 0.0) + each.took_s
    named = sorted(((took_s, name) for name, took_s in by_name.items() if name), reverse=True)
    yield from (f"{one_line(name, _NAME_LIMIT)} {span(took_s)}" for took_s, name in named[:_MOST])
