"""Where a step's time goes as a timeline: for a plot, and as a Chrome trace that Perfetto and speedscope open.

The parts are calls x median time, and stand one after another, the largest first: a profile does not know their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from twinkle_tune.profile.nested import nested
from twinkle_tune.profile.schema import Contest, Profile, Seen, StepResult
from twinkle_tune.profile.shares import step_us
from twinkle_tune.report.derive import share_after
from twinkle_tune.report.text import one_line, short_name
from twinkle_tune.slot import OF_THE_MODEL, ORIGINAL

BEFORE, AFTER = "original", "with the winners"
OUTSIDE = "not replaceable"
_NOTE = "calls x median time, one part after another: a profile does not know their order"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a step.

    Attributes:
        lane: :data:`BEFORE` or :data:`AFTER`.
        name: the slot's, short; :data:`OUTSIDE` for the rest.
        winner: what runs in it.
        calls: how often it is called; 0 for the rest.
        depth: 0, or 1 for a slot inside another one.
        start_us, length_us: microseconds from the beginning of the step.
    """

    lane: str
    name: str
    winner: str
    calls: int
    depth: int
    start_us: float
    length_us: float


def spans(profile: Profile, step: StepResult) -> tuple[Span, ...]:
    """The parts of one step without and with the winners; empty where its time is not known."""
    whole_us = step_us(step)
    if whole_us is None:
        return ()
    here = [
        (contest, seen)
        for contest in profile.contests
        if contest.slot.name not in OF_THE_MODEL
        for seen in contest.seen
        if seen.step == step.label
    ]
    here.sort(key=lambda pair: -pair[1].share)
    lanes = [*_lane(BEFORE, here, whole_us, whole_us)]
    if step.tuned_us:
        lanes += _lane(AFTER, here, whole_us, median(step.tuned_us))
    return tuple(lanes)


def trace_text(profile: Profile) -> str:
    """The steps as a Chrome trace (JSON): a process a step, a thread for the original and one for the winners."""
    events: list[dict[str, object]] = []
    for number, step in enumerate(profile.steps, 1):
        found = spans(profile, step)
        lanes = list(dict.fromkeys(span.lane for span in found))
        if found:
            events.append(_named("process_name", number, 0, one_line(step.label, 80)))
        for thread, lane in enumerate(lanes, 1):
            events.append(_named("thread_name", number, thread, lane))
            mine = [span for span in found if span.lane == lane]
            end_us = max(span.start_us + span.length_us for span in mine)
            events.append(_slice(one_line(step.label, 80), number, thread, 0.0, end_us, {"note": _NOTE}))
            events += [
                _slice(s.name, number, thread, s.start_us, s.length_us, {"winner": s.winner, "calls": s.calls})
                for s in mine
            ]
    data = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"model": one_line(profile.model.name, 80)}}
    return json.dumps(data, indent=1) + "\n"


def _lane(lane: str, here: list[tuple[Contest, Seen]], whole_us: float, end_us: float) -> Iterator[Span]:
    lengths = [
        min(whole_us, whole_us * (seen.share if lane == BEFORE else share_after(c, seen, {seen.step: whole_us})))
        for c, seen in here
    ]
    now_us = 0.0
    outer = nested([contest for contest, _ in here])
    inner: list[list[int]] = [[] for _ in here]
    for index, holders in enumerate(outer):
        for holder in holders:
            inner[holder].append(index)
    for index, (contest, seen) in enumerate(here):
        if outer[index]:
            continue
        length_us = min(lengths[index], max(0.0, end_us - now_us))
        yield _span(lane, contest, seen, 0, now_us, length_us)
        inner_us = now_us
        for other in inner[index]:
            inside_us = min(lengths[other], max(0.0, now_us + length_us - inner_us))
            yield _span(lane, *here[other], 1, inner_us, inside_us)
            inner_us += inside_us
        now_us += length_us
    if end_us > now_us:
        yield Span(
            lane=lane, name=OUTSIDE, winner=ORIGINAL, calls=0, depth=0, start_us=now_us, length_us=end_us - now_us
        )  # fmt: skip


def _span(lane: str, contest: Contest, seen: Seen, depth: int, start_us: float, length_us: float) -> Span:
    return Span(
        lane=lane,
        name=one_line(short_name(contest.slot.name), 40),
        winner=one_line(contest.selection.winner if lane == AFTER else ORIGINAL, 60),
        calls=seen.calls,
        depth=depth,
        start_us=start_us,
        length_us=length_us,
    )


def _named(what: str, process: int, thread: int, name: str) -> dict[str, object]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _slice(
    name: str, process: int, thread: int, start_us: float, length_us: float, args: dict[str, object]
) -> dict[str, object]:
    times = {"ts": round(start_us, 3), "dur": round(length_us, 3)}
    return {"ph": "X", "name": name, "cat": "step", "pid": process, "tid": thread, **times, "args": args}
