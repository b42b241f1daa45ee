"""Choosing among contests that touch each other: a pure decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twinkle_tune.objective import Aim, Objective
from twinkle_tune.outcome import Measurement, Selection, Trial
from twinkle_tune.profile.schema import Contest, Seen, StepResult
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.tune.choose import (
    Placed,
    choose_nested,
    culprits,
    only_winners_of,
    saved_bytes,
    saved_us,
    slots_with_winners,
    take_back,
)
from twinkle_tune.tune.gain import gained
from twinkle_tune.tune.verdict import verdict_of
from twinkle_tune.workload import Context, Named, TensorSpec, Workload


def contest(
    name: str,
    *,
    original_us: float,
    ratio: float = 1.0,
    calls: int = 1,
    paths: tuple[str, ...] = (),
    step: str = "forward",
) -> Contest:
    """A contest in which "fast" won with ``ratio``, or the original where that is 1."""
    spec = TensorSpec(dtype="float32", shape=(2, 4), stride=(4, 1))
    context = Context(training=False, grad=False, autocast="", deterministic=False)
    trials = [Trial(candidate="original", source="original", digest="0", outcome=_measured(original_us))]
    selection = Selection(winner="original", reason="no candidate was at least 2% faster")
    if ratio != 1.0:
        trials.append(Trial(candidate="fast", source="impl", digest="1", outcome=_measured(original_us * ratio)))
        selection = Selection(winner="fast", ratio=ratio, low=ratio, high=ratio, rounds=6, reason="faster")
    return Contest(
        slot=Slot(name=name, kind=SlotKind.LAYER, target=f"pkg:{name}"),
        instances=paths,
        seen=(Seen(step=step, calls=calls, share=0.1),),
        workload=Workload(target=f"pkg:{name}", args=(spec,), kwargs=(), settings=(), context=context),
        trials=tuple(trials),
        selection=selection,
    )


def _measured(time_us: float) -> Measurement:
    return Measurement(times_us=(time_us,) * 3, first_call_us=time_us)


def test_saving_counts_every_call() -> None:
    """What a winner saves is its gain times the original's time times its calls in a step."""
    assert saved_us(contest("A", original_us=100, ratio=0.75, calls=4)) == 100.0


def test_the_outer_winner_stays_when_it_saves_more() -> None:
    """An activation that won inside an MLP that won for more keeps its original, and says why."""
    outer = contest("MLP", original_us=100, ratio=0.5, paths=("m.0.mlp",))
    inner = contest("Activation", original_us=20, ratio=0.5, paths=("m.0.mlp.act",))
    chosen = choose_nested([Placed(contest=inner, inside=("m.0.mlp",)), Placed(contest=outer, inside=())])
    winners = {c.slot.name: c.selection.winner for c in chosen}
    assert winners == {"Activation": "original", "MLP": "fast"}
    assert "runs inside MLP" in chosen[0].selection.reason


def test_the_inner_winners_stay_when_together_they_save_more() -> None:
    """Two inner winners that together save more than the outer one stay; the outer keeps its original."""
    outer = contest("Block", original_us=100, ratio=0.9, paths=("b",))
    inner = [
        Placed(contest=contest(name, original_us=20, ratio=0.7, paths=(f"b.{name}",)), inside=("b",))
        for name in ("X", "Y")
    ]
    chosen = choose_nested([Placed(contest=outer, inside=()), *inner])
    assert [c.selection.winner for c in chosen] == ["original", "fast", "fast"]
    assert "X, Y" in chosen[0].selection.reason


def test_slots_side_by_side_do_not_touch() -> None:
    """Winners that do not contain each other are all kept; so are those of one place in different steps."""
    beside = [
        Placed(contest=contest("A", original_us=10, ratio=0.5, paths=("a",)), inside=()),
        Placed(contest=contest("B", original_us=10, ratio=0.5, paths=("b",), step="prefill"), inside=("c",)),
        Placed(contest=contest("C", original_us=10, ratio=0.5, paths=("c",), step="decode"), inside=()),
    ]
    assert [c.selection.winner for c in choose_nested(beside)] == ["fast"] * 3


def result(ratio: float) -> StepResult:
    """A step that took ``ratio`` of its time with some winners."""
    return StepResult(
        label="decode", original_us=(1.0,), tuned_us=(ratio,), ratio=ratio, low=ratio - 0.01, high=ratio + 0.01
    )


def test_culprits_are_those_that_do_not_make_the_step_faster() -> None:
    """Of several slots those are taken back that alone leave the step no faster; else the one that gains least."""
    assert culprits({"A": result(0.9), "B": result(1.1), "C": result(1.0)}).keys() == {"B", "C"}
    assert culprits({"A": result(0.9), "B": result(0.98)}).keys() == {"B"}
    assert culprits({}) == {}


def test_winners_are_taken_back_in_their_step_alone() -> None:
    """A culprit's winner goes back to the original in that step, with the figure; other steps and slots keep theirs."""
    contests = [
        contest("A", original_us=10, ratio=0.5, step="prefill"),
        contest("A", original_us=10, ratio=0.5, step="decode"),
        contest("B", original_us=10, ratio=0.5, step="decode"),
    ]
    assert slots_with_winners(contests, "decode") == ("A", "B")
    alone = only_winners_of(contests, "B", "decode")
    assert [c.selection.winner for c in alone] == ["original", "original", "fast"]
    kept = take_back(contests, "decode", {"A": result(1.1)})
    assert [c.selection.winner for c in kept] == ["fast", "original", "fast"]
    assert "took 1.100 of its time" in kept[1].selection.reason


def test_the_verdict_says_what_the_figures_allow() -> None:
    """It says a gain only where an interval lies under 1, and keeps the original where nothing won."""
    won = [contest("A", original_us=10, ratio=0.5)]
    gain = StepResult(label="forward", original_us=(2.0,), tuned_us=(1.0,), ratio=0.5, low=0.4, high=0.6)
    unclear = StepResult(label="forward", original_us=(2.0,), tuned_us=(2.0,), ratio=1.0, low=0.9, high=1.1)
    assert verdict_of(won, [gain]) == "1 of 1 contests won by a kernel (A): forward 50.0% faster (2.00x)."
    assert "no clear gain end to end" in verdict_of(won, [unclear])
    assert "none of 1 contests" in verdict_of([contest("A", original_us=10)], [])
    taken = take_back(won, "forward", {"A": result(1.1)})
    assert "won 1 of 1 contests by themselves, but" in verdict_of(taken, [])


MEMORY = Aim(objective=Objective.MEMORY)
TIGHT = Aim(objective=Objective.BALANCED, slowdown=1.1)


def by_memory(name: str, original_bytes: int, bytes_: int, *, paths: tuple[str, ...]) -> Contest:
    """A contest in which "fast" won with a smaller peak, twice as slow."""
    made = contest(name, original_us=10, ratio=2.0, paths=paths)
    trials = [
        replace(trial, outcome=replace(_measured(10), peak_bytes=peak))
        for trial, peak in zip(made.trials, (original_bytes, bytes_), strict=True)
    ]
    selection = replace(made.selection, memory_ratio=bytes_ / original_bytes)
    return replace(made, trials=tuple(trials), selection=selection)


def test_by_memory_nested_winners_do_not_add_up() -> None:
    """Calls follow each other, so their savings do not add up: the largest of a single call is held against another."""
    outer = by_memory("Block", 1000, 880, paths=("b",))
    inner = [Placed(contest=by_memory(name, 200, 100, paths=(f"b.{name}",)), inside=("b",)) for name in ("X", "Y")]
    assert saved_bytes(outer) == 120
    chosen = choose_nested([Placed(contest=outer, inside=()), *inner], MEMORY)
    assert [c.selection.winner for c in chosen] == ["fast", "original", "original"]
    assert "took 2.00 of the original's time and 0.50 of its peak memory" in chosen[1].selection.reason
    larger = replace(inner[0], contest=by_memory("X", 400, 200, paths=("b.X",)))
    chosen = choose_nested([Placed(contest=outer, inside=()), larger, inner[1]], MEMORY)
    assert [c.selection.winner for c in chosen] == ["original", "fast", "fast"]


def sized(ratio: float, peak_bytes: int | None) -> StepResult:
    """A step of 1 MiB that took ``ratio`` of its time with some winners, and so many bytes."""
    return replace(result(ratio), original_peak_bytes=2**20, tuned_peak_bytes=peak_bytes)


def test_what_a_step_gained_is_by_the_objective() -> None:
    """By time less time; by memory a page less; balanced that within the slowdown, by its interval."""
    small, same = sized(1.2, 2**19), sized(0.9, 2**20 - 4095)
    assert [gained(each, Aim()) for each in (small, same)] == [False, True]
    assert [gained(each, MEMORY) for each in (small, same)] == [True, False]
    assert [gained(sized(ratio, 2**19), TIGHT) for ratio in (1.09, 1.095)] == [True, False]
    assert not gained(sized(0.5, None), MEMORY)


def test_a_gain_that_noise_may_have_made_is_none() -> None:
    """The interval may reach beyond the original's time by no more than the median lies below it."""
    figures = [(0.97, 0.99), (0.97, 1.02), (0.97, 1.04), (0.9957, 1.0427), (0.999, 1.0005), (1.0, 1.0)]
    found = [gained(replace(result(ratio), high=high), Aim()) for ratio, high in figures]
    assert found == [True, True, False, False, True, False]


def test_culprits_by_memory_are_those_that_gain_no_memory() -> None:
    """Of several slots those are taken back that alone leave the peak; else the one that leaves most of it."""
    small, smaller, fast = sized(1.2, 2**19), sized(1.3, 2**18), sized(0.5, 2**20)
    assert culprits({"A": small, "B": fast}, MEMORY).keys() == {"B"}
    assert culprits({"A": small, "B": smaller}, MEMORY).keys() == {"A"}
    assert culprits({"A": small, "B": sized(1.05, 2**19)}, TIGHT).keys() == {"A"}


def test_by_memory_reasons_and_verdict_say_both_figures() -> None:
    """What is taken back, and what is kept, says its memory and plainly its time."""
    won = [by_memory("A", 1000, 500, paths=("a",))]
    kept = verdict_of(won, [sized(1.2, 2**19)], MEMORY)
    assert kept == (
        "1 of 1 contests won by a kernel (A): decode takes 0.500 of its peak memory and 1.200 of its time "
        "(1.190 to 1.210)."
    )
    (back,) = take_back(won, "forward", {"A": sized(1.2, 2**19)}, TIGHT)
    assert "took 0.500 of its peak memory and 1.200 of its time (1.190 to 1.210), of which 1.1 is allowed" in (
        back.selection.reason
    )
    assert verdict_of([back], [], TIGHT).endswith("became smaller within 1.1x the time and stayed right.")
    assert verdict_of([contest("A", original_us=10)], [], MEMORY).endswith("that is right and clearly smaller.")


@pytest.mark.parametrize(("piece_us", "stays"), [(30.0, True), (10.0, False)])
def test_a_piece_is_held_against_the_norm_in_it(piece_us: float, stays: bool) -> None:
    """The norm's winner stays for the norms elsewhere; the piece's stays where it saves more in a call."""
    piece = contest("AddNorm", original_us=100, ratio=1 - piece_us / 100, paths=("a:norm",))
    inside = (("norm.class", Named(kind="name", name="pkg.RMSNorm")),)
    piece = replace(
        piece,
        slot=replace(piece.slot, kind=SlotKind.PATTERN),
        workload=replace(piece.workload, settings=inside),
    )
    norm = contest("RMSNorm", original_us=50, ratio=0.6, calls=9, paths=("a.norm", "b.norm"))
    chosen = choose_nested([Placed(contest=piece, inside=()), Placed(contest=norm, inside=("a:norm",))])
    assert chosen[1].selection.winner == "fast"
    assert (chosen[0].selection.winner == "fast") is stays
    assert stays or "(RMSNorm) save more" in chosen[0].selection.reason
