"""What the terminal shows while contests run."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from tests.report import fabricate
from twinkle_tune.cli.show import Progress, State, advance, clock_line, detail, device_lines, final_table, seconds_left
from twinkle_tune.contest.events import RoundTimed, TrialRefused, TrialStarted
from twinkle_tune.tune.events import (
    Captured,
    ContestFinished,
    ContestLost,
    ContestPlaced,
    ContestStarted,
    Event,
    OriginalFailed,
    StepFinished,
    StepStarted,
)

_PROFILE = fabricate.normal()
_WON, _KEPT = _PROFILE.contests
_STARTED = ContestStarted(index=1, slot="RMSNorm", call="float32[1,128,256]", candidates=("original", "fused"))
_RUN: tuple[Event, ...] = (
    Captured(candidates=(3, 1), steps=("prefill 1x128",), uncalled=(), whole_s=6.0),
    _STARTED,
    TrialStarted(candidate="fused"),
    TrialRefused(candidate="compile", stage="first call", reason="no compiler"),
    RoundTimed(number=3, alive=2, best="fused", ratio=0.8),
    ContestFinished(index=1, contest=_WON),
    ContestStarted(index=2, slot="package.rotary", call="bfloat16[1]", candidates=("original",)),
    ContestFinished(index=2, contest=_KEPT),
    StepStarted(label="prefill 1x128"),
    StepFinished(result=_PROFILE.steps[0]),
    StepFinished(result=_PROFILE.steps[1]),
)


def _after(*events: Event) -> State:
    state = State()
    for event in events:
        state = advance(state, event, 0.0)
    return state


def test_detail_follows_the_run() -> None:
    """The line names slot, candidate, round, leader and refusals as they come, and forgets them after."""
    assert detail(_after(*_RUN[:3])) == "RMSNorm float32[1,128,256] · checking fused"
    assert detail(_after(*_RUN[:5])) == (
        "RMSNorm float32[1,128,256] · round 3, 2 in the race · best fused 0.800 · 1 refused"
    )
    assert detail(_after(*_RUN[:7])) == "package.rotary bfloat16[1]"
    assert detail(_after(*_RUN[:9])) == "the whole model, prefill 1x128"


def test_the_search_for_who_made_the_original_fail_is_shown() -> None:
    """In place of the candidate that was at work when the original failed."""
    state = _after(TrialStarted(candidate="fused"), OriginalFailed(reason="raised RuntimeError", processes=3))
    assert detail(state).endswith("checking its rivals one by one, each in a process of its own")


def test_time_left_counts_candidates_and_the_whole_model() -> None:
    """Four of ten candidates in 10 s leave 15 s and the whole model's 6; before a contest is done nothing is said."""
    state = State(candidates=(3, 1, 2, 4), done=2, began_s=100.0, whole_s=6.0)
    assert seconds_left(state, 110.0) == pytest.approx(21.0)
    assert seconds_left(State(candidates=(3, 1)), 50.0) is None


def test_plain_lines_where_there_is_no_terminal() -> None:
    """Off a terminal each finished contest and step is one plain line, and nothing else is written."""
    file = io.StringIO()
    with Progress(Console(file=file, width=40, force_terminal=False)) as listen:
        for event in _RUN:
            listen(event)
    assert file.getvalue().splitlines() == [
        "[1/2] RMSNorm [1,128,256] ~41% of prefill 1x128: fused 0.80 (2 refused)",
        "[2/2] rotary [1,4,128,64] ~20% of prefill 1x128: original",
        "whole model, prefill 1x128: 8.0% faster (1.09x)",
        "whole model, decode 1x128: unchanged, the original runs",
    ]


def test_terminal_gets_a_live_display_that_goes_away() -> None:
    """On a terminal the bar shows contests and time left, and stops when the run ends, also by an error."""
    file = io.StringIO()
    times = iter(float(second) for second in range(1000))
    console = Console(file=file, width=100, force_terminal=True, color_system=None)
    progress = Progress(console, clock=lambda: next(times))

    def run() -> None:
        with progress as listen:
            for event in _RUN[:6]:
                listen(event)
            console.print("shown above the bar")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    text = file.getvalue()
    assert "1/2 · 0:" in text
    assert "left" in text
    assert "\x1b[?25h" in text  # the cursor is back


def test_the_clock_says_what_is_used_and_left() -> None:
    """Elapsed, left and budget in one short text; what is left is never more than the budget."""
    state = State(candidates=(3, 1, 2, 4), done=2, started_s=90.0, began_s=100.0, whole_s=6.0)
    assert clock_line(state, 131.0) == "2/4 · 0:41 · about 0:52 left"
    given = replace(state, budget_s=60.0)
    assert clock_line(given, 131.0) == "2/4 · 0:41 · about 0:19 left · budget 41 of 60 s"
    assert clock_line(State(), 3700.0) == "1:01:40"


def test_final_table_names_the_winner() -> None:
    """The table at the end says what was measured, and has the winner."""
    file = io.StringIO()
    final_table(_PROFILE, console=Console(file=file, width=120))
    assert "Checked and timed on the whole model. Prefill 1x128: 8.0% faster" in file.getvalue()
    assert "fused" in file.getvalue()


def test_each_device_of_a_cluster_has_a_line() -> None:
    """It names the contest that the device holds; a contest that goes elsewhere leaves its line."""
    names = {1: "RMSNorm", 2: "Rotary"}
    begun = [
        ContestStarted(index=index, slot=slot, call="float32[1]", candidates=("original",))
        for index, slot in names.items()
    ]
    state = _after(
        *begun,
        ContestPlaced(index=1, device="a"),
        ContestPlaced(index=2, device="b"),
        ContestPlaced(index=1, device="c"),
    )
    assert device_lines(state) == ["b: Rotary float32[1]", "c: RMSNorm float32[1]"]
    state = _after(
        *begun, ContestPlaced(index=2, device="b"), ContestLost(index=2, device="b", reason="x", goes_on=True)
    )
    assert device_lines(state) == []
