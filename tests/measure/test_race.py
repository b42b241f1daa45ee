"""Each rule of the race by itself, on times made up for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest

from twinkle_tune.errors import TuneError
from twinkle_tune.measure.race import Decision, Race, RaceSettings

COUNTED = RaceSettings(warmup_rounds=0)


def play(race: Race, times: Mapping[str, Callable[[int], float]], rounds: int = 1000) -> Race:
    """Feed rounds until the race is over, or so many; ``times`` are functions of the round from 0."""
    for number in range(rounds):
        if race.finished:
            break
        race.feed({name: times[name](number) for name in race.next_order()})
    return race


def decided(race: Race) -> Decision:
    """The decision of a race that must be over."""
    assert race.decision is not None
    return race.decision


def steady(time_us: float) -> Callable[[int], float]:
    """The same time in every round."""
    return lambda number: time_us


def every(period: int, odd_us: float, usual_us: float) -> Callable[[int], float]:
    """One time in each ``period``-th round and another in all others."""
    return lambda number: odd_us if number % period == period - 1 else usual_us


def test_nobody_to_race_is_over_at_once() -> None:
    """Without a challenger the original wins before any round, and the reason says so."""
    decision = decided(Race([]))
    assert (decision.winner, decision.rounds, decision.left) == ("original", 0, ())
    assert decision.reason == "there was no candidate to race against the original"


@pytest.mark.parametrize("names", [["a", "a"], ["original"]])
def test_names_must_be_distinct(names: list[str]) -> None:
    """A name twice, or the original as its own challenger, is refused with both named."""
    with pytest.raises(ValueError, match="expected each name once"):
        Race(names)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_gain", 0.0),
        ("min_gain", 2.0),
        ("indifference", -0.1),
        ("error_rate", 0.0),
        ("error_rate", math.nan),
        ("warmup_rounds", -1),
        ("max_rounds", -1),
        ("max_rounds", 8),
        ("hopeless", 0.0),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    """A setting that makes no sense is refused with its name, its value and what was expected."""
    with pytest.raises(TuneError, match=rf"{name}: got {value}, expected .*"):
        RaceSettings(**{name: value})  # type: ignore[arg-type]


def test_orders_are_random_and_repeatable() -> None:
    """Everyone stands in every place over the rounds, and one seed gives one sequence of orders."""
    race, again = Race(["a", "b"], seed=7), Race(["a", "b"], seed=7)
    orders = [race.next_order() for _ in range(60)]
    assert orders == [again.next_order() for _ in range(60)]
    assert len(set(orders)) == 6


def test_warm_up_rounds_do_not_count() -> None:
    """Times of the first two rounds leave no trace, however wild."""
    race = Race(["a"])
    play(race, {"original": steady(1.0), "a": steady(1000.0)}, rounds=2)
    assert (race.rounds, race.times_us) == (0, {"original": (), "a": ()})
    play(race, {"original": steady(100.0), "a": steady(90.0)}, rounds=1)
    assert race.times_us == {"original": (100.0,), "a": (90.0,)}
    assert race.leader[0] == "a"
    assert race.leader[1] == pytest.approx(0.9)


def test_feed_wants_exactly_the_last_order() -> None:
    """Times of others, of too few, or of no order at all are refused."""
    race = Race(["a"], COUNTED)
    with pytest.raises(ValueError, match="next_order first"):
        race.feed({"original": 1.0, "a": 1.0})
    race.next_order()
    with pytest.raises(ValueError, match=r"got times of \['original'\]"):
        race.feed({"original": 1.0})
    race.feed({"original": 1.0, "a": 1.0})
    with pytest.raises(ValueError, match="feed it once"):
        race.feed({"original": 1.0, "a": 1.0})


@pytest.mark.parametrize("fault", [0.0, -3.0, math.nan, math.inf])
def test_a_fault_is_no_sample(fault: float) -> None:
    """A time that is no time is refused with the name of whose it is, and nothing of its round is kept."""
    race = Race(["a"], COUNTED)
    race.next_order()
    with pytest.raises(ValueError, match="'a'"):
        race.feed({"original": 1.0, "a": fault})
    assert race.rounds == 0
    race.feed({"original": 1.0, "a": 1.0})
    assert race.rounds == 1


def test_winning_every_round_wins_in_nine() -> None:
    """A challenger always 10% faster is accepted as soon as a fair coin would hardly do that: in round 9."""
    decision = decided(play(Race(["a"], COUNTED), {"original": steady(100.0), "a": steady(90.0)}))
    assert (decision.winner, decision.rounds) == ("a", 9)
    assert decision.reason == "10.0% faster than the original (median of 9 rounds)"


def test_more_challengers_need_more_evidence() -> None:
    """The error rate is shared: against ten challengers the same separation takes longer."""
    times = {"original": steady(100.0), "a": steady(90.0), **{f"c{i}": steady(95.0) for i in range(9)}}
    decision = decided(play(Race([name for name in times if name != "original"], COUNTED), times))
    assert (decision.winner, decision.rounds) == ("a", 12)


def test_drift_takes_no_more_rounds() -> None:
    """With times that drift by more than the gain, winning every round decides as soon as without."""
    times = {"original": lambda number: 1.1**number, "a": lambda number: 0.9 * 1.1**number}
    decision = decided(play(Race(["a"], COUNTED), times))
    assert (decision.winner, decision.rounds) == ("a", 9)


def test_lying_apart_is_no_evidence_of_its_own() -> None:
    """All times far under all of the original's: that too must have been seen in nine rounds."""
    race = play(Race(["a"], COUNTED), {"original": steady(100.0), "a": steady(10.0)}, rounds=8)
    assert not race.finished


def test_two_spikes_make_nobody_hopeless() -> None:
    """A challenger far behind in two of the first three rounds, and not in the third, stays, and wins."""
    times = {"original": steady(100.0), "a": lambda number: 900.0 if number < 2 else 80.0}
    assert decided(play(Race(["a"], COUNTED), times)).winner == "a"


@pytest.mark.parametrize("time_us", [100.0, 99.5, 98.5])
def test_less_than_the_least_gain_is_futile(time_us: float) -> None:
    """What does not save 2% leaves after six rounds, and the original stays with the reason."""
    decision = decided(play(Race(["a"], COUNTED), {"original": steady(100.0), "a": steady(time_us)}))
    assert (decision.winner, decision.rounds) == ("original", 6)
    assert decision.reason == "no candidate was at least 2% faster"
    assert decision.left == (("a", "not 2% faster in 6 of 6 rounds"),)


def test_the_hopeless_leave_after_three_rounds() -> None:
    """A challenger 31% slower than the original is not timed again, and nothing is left to time."""
    decision = decided(play(Race(["a"], COUNTED), {"original": steady(100.0), "a": steady(131.0)}))
    assert (decision.winner, decision.rounds) == ("original", 3)
    assert decision.left == (("a", "31% slower than the original after 3 rounds"),)


def test_the_hopeless_are_measured_against_the_leader() -> None:
    """A challenger as fast as the original leaves after three rounds where another halves the time."""
    times = {"original": steady(100.0), "fast": steady(50.0), "a": steady(100.0)}
    decision = decided(play(Race(["a", "fast"], COUNTED), times))
    assert decision.winner == "fast"
    assert decision.left == (("a", "2 times as slow as the leader fast after 3 rounds"),)


def test_the_slower_of_two_winners_leaves() -> None:
    """Both save time; the one that lies apart behind the other leaves with its name, and the faster wins."""
    times = {"original": steady(100.0), "a": steady(85.0), "b": steady(80.0)}
    decision = decided(play(Race(["a", "b"], COUNTED), times))
    assert decision.winner == "b"
    assert decision.left == (("a", "slower than b by more than 1% in all 6 rounds"),)


def test_one_of_two_equal_winners_is_dropped() -> None:
    """Two that are equally fast do not race on for ever: one leaves as not faster than the other."""
    times = {"original": steady(100.0), "a": steady(80.0), "b": steady(80.0)}
    decision = decided(play(Race(["a", "b"], COUNTED), times))
    assert decision.winner == "a"
    assert decision.left == (("b", "not 1% faster than a in 6 of 6 rounds"),)
    assert decision.rounds == 10


def test_no_clear_winner_leaves_the_original() -> None:
    """A challenger that wins all rounds but the first and the last is not proven by then, and the original stays."""
    times = {"original": steady(100.0), "a": lambda number: 103.0 if number in (0, 12) else 95.0}
    decision = decided(play(Race(["a"], RaceSettings(warmup_rounds=0, max_rounds=13)), times))
    assert (decision.winner, decision.rounds, decision.unclear) == ("original", 13, True)
    assert decision.reason == "no clear winner after 13 rounds"
    assert decision.left == (("a", "not clearly 2% faster than the original after 13 rounds"),)


def test_a_race_that_noise_hides_ends_early() -> None:
    """Who wins every other round would hardly be proven by the rest: the original stays, and it is left open."""
    times = {"original": steady(100.0), "a": every(2, 103.0, 95.0)}
    decision = decided(play(Race(["a"], COUNTED), times))
    assert (decision.winner, decision.unclear) == ("original", True)
    assert 8 <= decision.rounds <= 20
    assert decision.reason == f"too noisy to tell 2% here: no clear winner after {decision.rounds} rounds"
    assert decision.left == (("a", f"not clearly 2% faster than the original after {decision.rounds} rounds"),)


def test_a_race_goes_on_while_one_may_yet_be_proven() -> None:
    """Beside one that noise hides another that wins four of five rounds is timed on, and wins."""
    times = {
        "original": steady(100.0),
        "hidden": every(2, 103.0, 95.0),
        "good": lambda number: 101.0 if number % 5 == 0 else 95.0,
    }
    decision = decided(play(Race(["hidden", "good"], COUNTED), times))
    assert decision.winner == "good"


def test_what_has_won_does_not_give_way_to_what_may_yet_lose() -> None:
    """A leader not accepted drives out nobody who is: when it falls back in the end, the other wins."""
    times = {
        "original": steady(100.0),
        "sure": steady(90.0),
        "flighty": lambda number: 85.0 if number < 25 and number % 5 != 0 else 101.0,
    }
    decision = decided(play(Race(["sure", "flighty"], COUNTED), times))
    assert (decision.winner, decision.reason) == (
        "sure",
        "10.0% faster than the original (median of 60 rounds)",
    )
    assert dict(decision.left).keys() == {"flighty"}


def test_a_winner_must_gain_at_its_median() -> None:
    """Winning every round by 1.5% is evidence of a gain, though not of the gain asked for."""
    times = {"original": steady(100.0), "a": every(3, 97.0, 98.5)}
    assert decided(play(Race(["a"], COUNTED), times)).winner == "original"


def test_the_gain_asked_for_is_a_setting() -> None:
    """With a least gain of 20% a challenger 10% faster stays out."""
    settings = RaceSettings(warmup_rounds=0, min_gain=0.2)
    decision = decided(play(Race(["a"], settings), {"original": steady(100.0), "a": steady(90.0)}))
    assert (decision.winner, decision.reason) == ("original", "no candidate was at least 20% faster")


def test_who_withdraws_is_out_of_the_round() -> None:
    """A challenger that fails within a round is neither awaited in it nor asked for again."""
    race = Race(["a", "b"], COUNTED)
    race.next_order()
    race.withdraw("a", "it raised")
    race.feed({"original": 100.0, "b": 90.0})
    assert set(race.next_order()) == {"original", "b"}
    decision = decided(play(race, {"original": steady(100.0), "b": steady(90.0)}))
    assert (decision.winner, decision.left, decision.failed) == ("b", (("a", "it raised"),), ("a",))


def test_all_withdrawn_leaves_the_original() -> None:
    """When the last challenger fails the race is over, and the reason is not that it was slow."""
    race = Race(["a"])
    race.withdraw("a", "it raised")
    assert decided(race).reason == "no candidate could be timed"
    with pytest.raises(ValueError, match="got 'a'"):
        race.withdraw("a", "again")


def test_stopping_early_takes_the_accepted_leader() -> None:
    """Out of time while two winners still race: the better one wins, and the reason says that time was up."""
    wobble = every(2, 79.0, 83.0)
    times = {"original": steady(100.0), "a": steady(81.0), "b": wobble}
    race = play(Race(["a", "b"], COUNTED), times, rounds=12)
    assert not race.finished
    race.stop("out of time budget after 12 rounds")
    decision = decided(race)
    assert decision.winner in ("a", "b")
    assert decision.reason.endswith("; out of time budget after 12 rounds")
    assert [name for name, _ in decision.left] == [{"a": "b", "b": "a"}[decision.winner]]


def test_stopping_before_anyone_is_accepted_leaves_the_original() -> None:
    """Five good rounds are not yet evidence: out of time then, the original stays."""
    race = play(Race(["a"], COUNTED), {"original": steady(100.0), "a": steady(50.0)}, rounds=5)
    race.stop("out of time budget after 5 rounds")
    assert (decided(race).winner, decided(race).reason) == ("original", "out of time budget after 5 rounds")
    race.stop("once more")
    assert decided(race).reason == "out of time budget after 5 rounds"


def test_no_order_after_the_end() -> None:
    """Who asks a finished race for another round is told that it is over."""
    with pytest.raises(RuntimeError, match="the race is over"):
        Race([]).next_order()


def test_times_pair_by_position() -> None:
    """Whoever left early keeps the first rounds' times, so that they stand beside the original's of then."""
    times = {"original": lambda number: 100.0 + number, "a": steady(200.0), "b": steady(50.0)}
    race = play(Race(["a", "b"], COUNTED), times)
    assert race.times_us["a"] == (200.0,) * 3
    assert race.times_us["original"][:3] == (100.0, 101.0, 102.0)
    assert len(race.times_us["b"]) == len(race.times_us["original"]) == decided(race).rounds
