"""Rules of one candidate with several configs: what runs between and beyond the measured row counts."""

from __future__ import annotations

from twinkle_tune.kernel.dispatch import KEPT, Choice, Rule, rules_of, rules_text

PLAIN = Choice(candidate="triton")
SMALL = Choice(candidate="triton", config=(("warps", 1),))
LARGE = Choice(candidate="triton", config=(("warps", 8),))


def test_between_two_configs_of_a_candidate_the_nearer_one_runs() -> None:
    """Half of the way in ratio: sqrt(2 * 128) = 16."""
    assert rules_of([(2, SMALL), (128, LARGE)]) == (
        Rule(low=2, high=16, winner=SMALL),
        Rule(low=17, high=128, winner=LARGE),
    )
    assert rules_of([(2, SMALL), (3, LARGE)]) == (
        Rule(low=2, high=2, winner=SMALL),
        Rule(low=3, high=3, winner=LARGE),
    )


def test_a_default_and_a_config_are_one_candidate_too() -> None:
    for points in ([(2, PLAIN), (128, LARGE)], [(2, LARGE), (128, PLAIN)]):
        assert [(rule.low, rule.high) for rule in rules_of(points)] == [(2, 16), (17, 128)]


def test_between_two_candidates_the_original_runs() -> None:
    """Nobody knows where one becomes better; what is compiled for each shape is another thing at each."""
    for other in (Choice(candidate="compile"), KEPT, Choice(candidate="tritonic", config=(("warps", 1),))):
        assert rules_of([(2, SMALL), (128, other)])[0] == Rule(low=2, high=2, winner=SMALL)
    compiled = [(rows, Choice(candidate="compile", rows=rows)) for rows in (2, 128)]
    assert [rule.high for rule in rules_of(compiled)] == [2, 128]


def test_a_report_names_the_candidate_and_tells_neighbours_as_one() -> None:
    assert rules_text(rules_of([(2, SMALL), (128, LARGE)])) == "2 to 128: triton"
    apart = rules_of([(2, SMALL), (64, KEPT), (128, LARGE)])
    assert rules_text(apart) == "2: triton; 128: triton"
