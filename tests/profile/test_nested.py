"""Which slots lie inside which: told by paths alone, in a time that grows with the number of contests."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report import fabricate
from twinkle_tune.profile.nested import nested, parts_inside
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.report.markdown import markdown_text
from twinkle_tune.report.render import render
from twinkle_tune.report.terminal import terminal_text
from twinkle_tune.report.trace import trace_text

_PATHS = st.sampled_from(["", "a", "ab", "a.b", "a.b.c", "b", "a.bc", "b.a"])


def _lies_in(path: str, place: str) -> bool:
    return path != place and (not place or path.startswith(f"{place}."))


@given(of=st.lists(st.lists(_PATHS, max_size=3, unique=True), max_size=5))
def test_what_lies_in_what(of: list[list[str]]) -> None:
    """An instance lies in another contest's where its path begins with that one's; a contest, where all of it does."""
    contests = [replace(fabricate.won(), instances=tuple(paths)) for paths in of]
    for index, inside in enumerate(parts_inside(contests)):
        outer = {path for other, paths in enumerate(of) if other != index for path in paths}
        within = [path for path in of[index] if any(_lies_in(path, place) for place in outer)]
        assert inside == (len(within) / len(of[index]) if of[index] else 0.0)
    for index, holders in enumerate(nested(contests)):
        assert holders == [
            other
            for other, places in enumerate(of)
            if other != index and of[index] and all(any(_lies_in(p, place) for place in places) for p in of[index])
        ]


def _many(count: int) -> Profile:
    def numbered(contest: Contest, number: int) -> Contest:
        name = f"{contest.slot.name}{number}"
        return replace(contest, slot=replace(contest.slot, name=name), instances=(f"model.{number}.norm",))

    return fabricate.profile(*(numbered(fabricate.won(), number) for number in range(count)))


@pytest.mark.parametrize("report", [terminal_text, markdown_text, partial(render, format="html"), trace_text])
def test_twice_the_contests_take_twice_as_long(report: Callable[[Profile], str]) -> None:
    """A report of twice as many contests takes about twice as many calls of functions, not four times."""
    counts = []
    report(_many(2))
    for count in (100, 200):
        profile, watch = _many(count), cProfile.Profile()
        watch.runcall(report, profile)
        counts.append(pstats.Stats(watch).total_calls)  # type: ignore[attr-defined]
    assert counts[1] < 2.3 * counts[0]
