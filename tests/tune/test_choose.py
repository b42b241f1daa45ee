"""Choosing among contests that touch each other: a pure decision."""

from __future__ import annotations

from twinkle_tune.outcome import Measurement, Selection, Trial
from twinkle_tune.profile.schema import Contest, Seen, StepResult
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.tune.choose import (
    Placed,
    choose_nested,
    culprits,
    only_winners_of,
    saved_us,
    slots_with_winners,
    take_back,
    verdict_of,
)
from twinkle_tune.workload import Context, TensorSpec, Workload


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
    assert (
        verdict_of(won, [gain])
        == "1 of 1 contests won by a kernel (A): forward takes 0.500 of its time (0.400 to 0.600)."
    )
    assert "no clear gain end to end" in verdict_of(won, [unclear])
    assert "none of 1 contests" in verdict_of([contest("A", original_us=10)], [])
    taken = take_back(won, "forward", {"A": result(1.1)})
    assert "won 1 of 1 contests by themselves, but" in verdict_of(taken, [])
