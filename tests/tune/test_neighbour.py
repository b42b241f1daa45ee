"""Starting from a neighbour's profile: who competes, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.report import fabricate
from twinkle_tune.outcome import Selection, Untimed
from twinkle_tune.profile.run import RunFacts
from twinkle_tune.profile.schema import Contest
from twinkle_tune.profile.setup import CompiledStep, ModelCall, Setup
from twinkle_tune.report.recommend import advice_text
from twinkle_tune.report.render import pieces
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.source.direct import OriginalSource
from twinkle_tune.tune.neighbour import Neighbour


def entrants(*names: str) -> tuple[Candidate, ...]:
    """Candidates of these names, the original first."""
    return tuple(Candidate(name=name, source=OriginalSource()) for name in (ORIGINAL, *names))


def names(contest: Contest, offered: tuple[Candidate, ...], held: Contest | None = None) -> list[str]:
    """Who competes for a contest's call where the neighbour had ``held`` this one (or the same)."""
    neighbour = Neighbour(profile=fabricate.profile(contest if held is None else held), whose="x")
    observation: Any = SimpleNamespace(slot=contest.slot, workload=contest.workload)
    return [candidate.name for candidate in neighbour.only(observation, offered)]


def test_only_the_winner_competes() -> None:
    """Of a call that the neighbour decided its winner competes alone; of one that its original won, nobody."""
    won, kept = fabricate.won(), fabricate.kept()
    offered = entrants(won.selection.winner, "another")
    assert names(won, offered) == [ORIGINAL, won.selection.winner]
    assert names(kept, offered) == [ORIGINAL]


@pytest.mark.parametrize("why", ["another call", "undecided", "cut short", "not to be had"])
def test_everybody_competes(why: str) -> None:
    """Of a call that it did not see or did not finish, or whose winner is not to be had here, everybody does."""
    won = fabricate.won()
    offered = entrants(won.selection.winner, "another")
    held = won
    if why == "another call":
        held = replace(won, workload=fabricate.kept().workload)
    elif why == "undecided":
        held = replace(won, selection=replace(won.selection, status="not tried", winner=ORIGINAL))
    elif why == "cut short":
        left = replace(won.trials[-1], candidate="late", outcome=Untimed(cause="budget", right=True, reason="no time"))
        held = replace(won, trials=(*won.trials, left))
    else:
        offered = entrants("another", "one more")
    assert names(won, offered, held) == [candidate.name for candidate in offered]


@pytest.mark.parametrize("case", ["it won", "the original won", "everybody competes", "undecided"])
def test_one_race_where_nobody_is_chosen(case: str) -> None:
    """One race tells of who won there and competes alone here; of others that win here a second one does, too."""
    won = fabricate.won()
    held = fabricate.kept() if case == "the original won" else won
    if case == "undecided":
        held = replace(won, selection=replace(won.selection, status="not tried", winner=ORIGINAL))
    offered = entrants(won.selection.winner, *(["another"] if case == "everybody competes" else []))
    observation: Any = SimpleNamespace(slot=held.slot, workload=held.workload)
    neighbour = Neighbour(profile=fabricate.profile(held), whose="x")
    assert neighbour.is_chosen(observation, offered) is (case == "it won")


CLEAR = CompiledStep(label="prefill", ratio=0.7, low=0.6, high=0.8)


@pytest.mark.parametrize(
    ("setups", "compiled", "expected"),
    [
        (("compile",), (CLEAR,), ("compile",)),
        (("compile + attn:eager",), (CLEAR,), ("compile", "compile + attn:eager")),
        (("compile + kernels",), (CLEAR,), ("compile",)),
        ((), (CLEAR,), ()),
        ((), (replace(CLEAR, label="decode"),), None),
        ((), (), None),
        ((), (replace(CLEAR, problem="no time", cause="not timed"),), None),
        ((), (replace(CLEAR, problem="no compiler", cause="raised"),), None),
        ((), (replace(CLEAR, problem="it is off", cause="wrong"),), ()),
        (("future",), (CLEAR,), None),
    ],
    ids=[
        "it won",
        "with an attention",
        "with kernels",
        "none won",
        "another step",
        "none competed",
        "no time",
        "no compiler there",
        "wrong there",
        "nobody has it here",
    ],
)
def test_only_the_way_that_won_competes(
    setups: tuple[str, ...], compiled: tuple[CompiledStep, ...], expected: tuple[str, ...] | None
) -> None:
    """Of a step in which all had their turn there; kernels are put into it by what wins here."""
    won = tuple(
        Setup(
            label="prefill", way=name.partition(" ")[0], calls=(), model="", kernels="kernels" in name,
            attention=name.partition("attn:")[2],
        )
        for name in setups
    )  # fmt: skip
    made = replace(fabricate.profile(), setups=won, compiled=compiled)
    assert Neighbour(profile=made, whose="x").ways("prefill") == expected


@pytest.mark.parametrize(
    ("kernels", "label", "tries"),
    [(False, "prefill", False), (True, "prefill", True), (False, "decode", True)],
    ids=["they lost there", "they won there", "another step"],
)
def test_kernels_inside_of_a_way(kernels: bool, label: str, tries: bool) -> None:
    """Where they had their turn inside of the way that won there, and lost it, they have none here."""
    setup = Setup(label="prefill", way="compile", calls=(), model="", kernels=kernels)
    made = replace(fabricate.profile(), setups=(setup,))
    assert Neighbour(profile=made, whose="x").tries_kernels(label) is tries


def test_other_sizes_are_left_to_a_second_run() -> None:
    """They are tried where the way's figures are of an earlier run, and where nothing but winners is tried."""
    neighbour = Neighbour(profile=fabricate.profile(), whose="x")
    earlier = replace(CLEAR, measured="2026-11-01T00:00:00Z")
    assert not neighbour.tries_sizes("prefill", [CLEAR, replace(earlier, label="decode")])
    assert neighbour.tries_sizes("prefill", [CLEAR, earlier])
    assert replace(neighbour, alone=True).tries_sizes("prefill", [CLEAR])


@pytest.mark.parametrize(
    ("left", "calls", "told"),
    [
        (("prefill",), 1, ", 1 at the inputs' sizes alone: the same command once more tries others"),
        ((), 1, ""),
        (("prefill",), 2, ""),
    ],
    ids=["left", "tried, and lost", "there are no others"],
)
def test_sizes_that_were_left_are_told(left: tuple[str, ...], calls: int, told: str) -> None:
    """It is said what to do where the way runs at fewer sizes than there since the others were not tried."""
    call = ModelCall(workload=fabricate.won().workload, cached=None)
    there, here = (Setup(label="prefill", way="compile", calls=(call,) * n, model="") for n in (2, calls))
    neighbour = Neighbour(profile=replace(fabricate.profile(), setups=(there,)), whose="x")
    assert (
        neighbour.told((), [here], left)
        == f"x: 0 of its 0 winners tried here, 0 confirmed; 1 of its 1 steps run in its way{told}"
    )


def test_what_was_confirmed() -> None:
    """It is told how many of its winners were tried here, and how many won here too."""
    won, kept = fabricate.won(), fabricate.kept()
    neighbour = Neighbour(profile=fabricate.profile(won, kept), whose="a/b at commit 0")
    assert neighbour.told([won, kept]) == "a/b at commit 0: 1 of its 1 winners tried here, 1 confirmed"
    lost = replace(won, selection=replace(won.selection, winner=ORIGINAL))
    assert neighbour.told([lost]) == "a/b at commit 0: 1 of its 1 winners tried here, 0 confirmed"
    assert neighbour.told([]) == "a/b at commit 0: 0 of its 1 winners tried here, 0 confirmed"


def test_calls_without_rivals_are_not_held() -> None:
    """Where nothing else won there no contest is held; the advice says so, and for the next neighbour it is decided."""
    won = fabricate.won()
    kept = Selection(
        winner=ORIGINAL, reason="not tried: nothing but the original won it there", status="nothing to gain"
    )
    unheld = replace(won, trials=(), selection=kept)
    run = RunFacts(took_s=1.0, started_from="a/b at commit 0: 0 of its 0 winners tried here, 0 confirmed")
    made = replace(fabricate.profile(unheld), steps=(), run=run)
    assert "No other kernel won in the profile that the run started from; none was tried." in advice_text(made)
    assert names(won, entrants("another"), unheld) == [ORIGINAL]


def test_reports_say_so() -> None:
    """A report, and the profile as text, say from whose profile the run started and what of it was confirmed."""
    made = fabricate.profile(fabricate.won())
    run = RunFacts(took_s=1.0, started_from="a/b at commit 0: 2 of its 2 winners tried here, 1 confirmed")
    shown = replace(made, run=run)
    for text in (str(shown), "".join(pieces(shown, "md", "p.json"))):
        assert run.started_from in text
    assert "Started from" not in "".join(pieces(made, "md", "p.json"))
