"""Who wins by memory, and the rounds that are held for it."""

from __future__ import annotations

import pytest

from twinkle_tune.measure.rounds import FEW_ROUNDS, ROUNDS, Rounds
from twinkle_tune.measure.settings import RaceSettings
from twinkle_tune.measure.smallest import is_smaller, memory_ratio, smallest
from twinkle_tune.objective import Aim, Objective

MIB = 2**20
MEMORY = Aim(objective=Objective.MEMORY)
TIGHT = Aim(objective=Objective.BALANCED, slowdown=1.1)


def times(time_us: float, rounds: int = ROUNDS) -> tuple[float, ...]:
    """The same time in each round."""
    return (time_us,) * rounds


@pytest.mark.parametrize(
    ("peak", "original", "smaller"),
    [
        (98 * MIB, 100 * MIB, True),
        (99 * MIB, 100 * MIB, False),
        (4096, 8192, True),
        (4097, 8192, False),
        (0, 0, False),
        (None, 100 * MIB, False),
        (0, None, False),
    ],
)
def test_smaller_is_by_two_percent_and_a_page(peak: int | None, original: int | None, smaller: bool) -> None:
    """A peak counts as smaller from 2% and 4 KiB on; what is unknown never does."""
    assert is_smaller(peak, original) is smaller


def test_a_ratio_of_peaks_needs_both() -> None:
    """Without one of them, or of nothing, there is none."""
    assert memory_ratio(1, 4) == 0.25
    assert memory_ratio(0, 4) == 0.0
    assert memory_ratio(None, 4) is memory_ratio(1, None) is memory_ratio(0, 0) is None


def test_by_memory_the_smallest_wins_however_slow() -> None:
    """Of three the smallest wins, and the reasons say plainly what it costs and why the others lost."""
    peaks = {"original": 100 * MIB, "small": 40 * MIB, "smallest": 10 * MIB, "large": 100 * MIB}
    found = smallest(
        peaks,
        {"original": times(10.0), "small": times(9.0), "smallest": times(30.0), "large": times(1.0, FEW_ROUNDS)},
        MEMORY,
    )
    assert found.winner == "smallest"
    assert found.reason == "0.100 of the original's peak memory, more time: 3.000 (3.000 to 3.000, 15 rounds)"
    assert found.left == {
        "large": "not clearly smaller: 1.000 of the original's peak memory",
        "small": "larger than smallest: 0.400 of the original's peak memory",
    }


def test_near_ties_go_to_the_faster() -> None:
    """Within 2% of the original's peak two are equally small."""
    peaks = {"original": 100 * MIB, "slow": 10 * MIB, "fast": 11 * MIB, "faster": 20 * MIB}
    found = smallest(
        peaks, {"original": times(10.0), "slow": times(30.0), "fast": times(20.0), "faster": times(5.0)}, MEMORY
    )
    assert found.winner == "fast"
    assert found.left["slow"].startswith("about as small as fast, and not faster")


def test_balanced_needs_proof_that_it_is_not_slower() -> None:
    """Whose interval reaches beyond the slowdown loses, however small; so does who was timed too seldom."""
    peaks = {"original": 100 * MIB, "slow": 10 * MIB, "unclear": 20 * MIB, "fit": 60 * MIB}
    noisy = tuple(10.5 if index % 3 else 11.5 for index in range(ROUNDS))
    found = smallest(peaks, {"original": times(10.0), "slow": times(11.1), "unclear": noisy, "fit": times(10.9)}, TIGHT)
    assert found.winner == "fit"
    assert found.left["slow"].startswith("smaller, but not shown to take at most 1.1x the time: 1.110")
    assert found.left["unclear"].startswith("smaller, but not shown to take at most 1.1x the time: 1.050")
    few = smallest({"original": 100 * MIB, "fit": 60 * MIB}, {"original": times(10.0, 5), "fit": times(9.0, 5)}, TIGHT)
    assert few.winner == "original"
    assert few.reason == "no candidate was clearly smaller within 1.1x the time; 1 took more, or may have"


def test_nobody_smaller_keeps_the_original() -> None:
    """Also where the original takes nothing, or there was nobody."""
    two = {"original": times(1.0), "a": times(1.0)}
    assert smallest({"original": MIB, "a": MIB}, two, MEMORY).reason == "no candidate took clearly less memory"
    assert smallest({"original": 0, "a": 0}, two, MEMORY).left == {"a": "the original takes no memory of its own"}
    assert "no candidate to hold" in smallest({"original": MIB}, {"original": times(1.0)}, MEMORY).reason


def held(rounds: Rounds, times_us: dict[str, float]) -> list[tuple[str, ...]]:
    """Feed them until they are over; who was timed in each round."""
    orders = []
    while not rounds.finished:
        order = rounds.next_order()
        orders.append(order)
        rounds.feed({name: times_us[name] for name in order})
    return orders


def test_slow_ones_stay_and_those_not_smaller_leave_early() -> None:
    """A candidate ten times slower is timed in all 15 rounds where it is smaller, in three where it is not."""
    rounds = Rounds({"original": 100 * MIB, "slow": MIB, "large": 200 * MIB}, MEMORY, seed=1)
    orders = held(rounds, {"original": 10.0, "slow": 100.0, "large": 5.0})
    warmup = RaceSettings().warmup_rounds
    assert [sorted(order) for order in orders[: warmup + FEW_ROUNDS]] == [["large", "original", "slow"]] * 5
    assert [sorted(order) for order in orders[warmup + FEW_ROUNDS :]] == [["original", "slow"]] * (ROUNDS - FEW_ROUNDS)
    assert {order[0] for order in orders} > {"original", "slow"}
    assert {name: len(own) for name, own in rounds.times_us.items()} == {"original": 15, "slow": 15, "large": 3}
    assert rounds.decision is not None
    assert (rounds.decision.winner, rounds.decision.rounds) == ("slow", 15)
    assert rounds.leader == ("slow", 10.0)


def test_without_anybody_smaller_three_rounds_are_enough() -> None:
    """The times are for the report; the original stays."""
    rounds = Rounds({"original": MIB, "large": MIB}, MEMORY)
    held(rounds, {"original": 10.0, "large": 5.0})
    assert rounds.decision is not None
    assert (rounds.decision.winner, rounds.rounds) == ("original", FEW_ROUNDS)


def test_who_cannot_be_timed_cannot_win() -> None:
    """A candidate that raises is out and told as failed; alone, it leaves the original."""
    rounds = Rounds({"original": 100 * MIB, "broken": MIB}, MEMORY)
    rounds.next_order()
    rounds.withdraw("broken", "raised")
    assert rounds.decision is not None
    assert (rounds.decision.winner, rounds.decision.failed) == ("original", ("broken",))
    assert rounds.decision.left == (("broken", "raised"),)
    assert rounds.decision.reason == "no candidate could be timed"
    with pytest.raises(ValueError, match="withdraw: got 'broken'"):
        rounds.withdraw("broken", "raised")


def test_time_that_runs_out_decides_by_what_is_there() -> None:
    """By memory one round is enough; balanced the interval needs six; before the first round nobody wins."""
    for aim, fed, winner in (
        (MEMORY, 0, "original"),
        (MEMORY, 1, "small"),
        (TIGHT, 5, "original"),
        (TIGHT, 6, "small"),
    ):
        rounds = Rounds({"original": 100 * MIB, "small": MIB}, aim, RaceSettings(warmup_rounds=0))
        for _ in range(fed):
            rounds.feed(dict.fromkeys(rounds.next_order(), 10.0))
        rounds.stop("out of time")
        assert rounds.decision is not None
        assert rounds.decision.winner == winner
        assert rounds.decision.reason.endswith("out of time")


def test_what_was_not_asked_for_is_refused() -> None:
    """Times of others, no time at all, an order after the end, peaks without the original."""
    rounds = Rounds({"original": 100 * MIB, "small": MIB}, MEMORY)
    rounds.next_order()
    with pytest.raises(ValueError, match="feed: got times of"):
        rounds.feed({"original": 1.0})
    with pytest.raises(ValueError, match="fault of the clock"):
        rounds.feed({"original": 1.0, "small": 0.0})
    rounds.stop("enough")
    with pytest.raises(RuntimeError, match="the race is over"):
        rounds.next_order()
    with pytest.raises(ValueError, match="'original' among them"):
        Rounds({"small": MIB}, MEMORY)
