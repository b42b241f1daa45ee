"""What a run says while it goes on."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from tests.report import fabricate
from twinkle_tune.contest.selected import interpreted
from twinkle_tune.outcome import Selection, Status
from twinkle_tune.profile.schema import Contest
from twinkle_tune.profile.setup import CompiledStep
from twinkle_tune.tune.events import Captured, ContestAdded, ContestFinished, OriginalFailed
from twinkle_tune.tune.progress import WIDTH, contest_line, printed, ways_line


def _kept(status: Status, visible_gain: float | None = None) -> Contest:
    chosen = Selection(winner="original", reason="", status=status, visible_gain=visible_gain)
    return replace(fabricate.kept(), selection=chosen)


@pytest.mark.parametrize(
    ("contest", "line"),
    [
        (fabricate.won(), "[3/12] RMSNorm [1,128,256] ~12% of prefill 1x128: fused 0.80 (2 refused)"),
        (_kept("kept"), "[3/12] rotary [1,4,128,64] ~12% of prefill 1x128: original"),
        (
            replace(fabricate.kept(), trials=(*fabricate.kept().trials, fabricate.trial("a", interpreted()))),
            "[3/12] rotary [1,4,128,64] ~12% of prefill 1x128: original (1 not timed)",
        ),
        (_kept("not tried"), "[3/12] rotary [1,4,128,64] ~12% of prefill 1x128: not tried (no time left)"),
        (_kept("cut short"), "[3/12] rotary [1,4,128,64] ~12% of prefill 1x128: cut short (no time left)"),
        (
            _kept("no clear winner", 0.06),
            "[3/12] rotary [1,4,128,64] ~12% of prefill: original (noise hides up to 6%)",
        ),
        (_kept("nothing to gain"), "[3/12] rotary [1,4,128,64] ~12% of prefill 1x128: original (nothing to gain)"),
    ],
)
def test_each_end_of_a_contest_has_its_line(contest: Contest, line: str) -> None:
    """Not tried, too noisy, kept and won are told apart, with the share of which step and the ratio."""
    assert contest_line(contest, 3, 12) == line


def test_a_line_fits_a_terminal() -> None:
    """Whatever names there are, a line has 80 columns at most, and is one line."""
    for profile in fabricate.ALL.values():
        for contest in profile.contests:
            line = contest_line(contest, 123, 456)
            assert len(line) <= WIDTH
            assert line.isprintable()


def test_the_search_for_who_made_the_original_fail_is_told() -> None:
    """It takes a process for each candidate, seconds with a GPU: how many, and what the original did, in one line."""
    file = io.StringIO()
    printed(file)(OriginalFailed(reason=f"raised RuntimeError: {'CUDA error ' * 20}", processes=5))
    line = file.getvalue()
    assert line.startswith("the original raised RuntimeErr")
    assert line.endswith("; up to 5 processes to see why\n")
    assert len(line) <= WIDTH + 1


def test_lines_are_printed_as_contests_end() -> None:
    """What the budget leaves out comes first, then a line for each contest, counted with those that were added."""
    file = io.StringIO()
    listen = printed(file)
    listen(Captured(candidates=(2,), steps=(), uncalled=(), whole_s=6.0, notes=("budget 30 s: blocks are left out",)))
    listen(ContestAdded(candidates=2))
    listen(ContestFinished(index=1, contest=fabricate.won()))
    assert file.getvalue().splitlines() == [
        "budget 30 s: blocks are left out",
        "[1/2] RMSNorm [1,128,256] ~12% of prefill 1x128: fused 0.80 (2 refused)",
    ]


def test_a_steps_ways_fit_a_line() -> None:
    """The fastest first, as many as fit, and how many more there are."""
    figures = {"kernels": 1.02, "compile": 0.89, "compile dynamic": 0.8, "compile dynamic + attn:eager": 0.74}
    ways = [CompiledStep(label="", way=way, ratio=ratio) for way, ratio in figures.items()]
    refused = CompiledStep(label="", way="compile blocks", problem="it is wrong", cause="wrong")
    assert (
        ways_line("prefill 1x8", [refused, *ways[:2]])
        == "prefill 1x8: compile 0.89, kernels 1.02, compile blocks refused"
    )
    assert ways_line("generate 1x128+32", ways) == "generate 1x128+32: compile dynamic + attn:eager 0.74, 3 more"
    for width in range(1, 90):
        assert len(ways_line("x" * width, [*ways, refused])) <= 80
