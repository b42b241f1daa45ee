"""Point 8 around the race: who is wrong after timing can not win, and the others are raced anew."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.tune.toy import QUICK, Norm, norm, norm_taking
from twinkle_tune import tune_model
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.measure.race import Decision
from twinkle_tune.measure.recheck import Times, race_until_right
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.parity.verdict import Inconclusive, Pass, Reject, Verdict

RIGHT = Pass(figures=(), deterministic=True)
WRONG = Reject(point=2, tensor="output", error=1.0, limit=0.5, reason="off")


def fastest_wins(names: tuple[str, ...]) -> tuple[Decision, Times]:
    """The first in the alphabet wins, in three rounds."""
    winner = min(names)
    left = tuple((name, "slower") for name in names if name != winner)
    return Decision(winner=winner, reason="it won", left=left, rounds=3), dict.fromkeys(names, (1.0, 1.0, 1.0))


def test_the_winner_stands_where_all_are_still_right() -> None:
    """One race, no refusal."""
    decision, _, wrong = race_until_right(
        ("a", "b", "original"), fastest_wins, {"a": lambda: RIGHT, "b": lambda: RIGHT}
    )
    assert (decision.winner, wrong) == ("a", {})


def test_a_winner_that_is_wrong_now_leaves_the_others_to_race_again() -> None:
    """The second race is without it, and its decision is the one that counts."""
    races: list[tuple[str, ...]] = []

    def race(names: tuple[str, ...]) -> tuple[Decision, Times]:
        races.append(names)
        return fastest_wins(names)

    judged: dict[str, Callable[[], Verdict]] = {"a": lambda: WRONG, "b": lambda: RIGHT}
    decision, times_us, wrong = race_until_right(("a", "b", "original"), race, judged)
    assert decision.winner == "b"
    assert races == [("a", "b", "original"), ("b", "original")]
    assert "a" not in times_us
    assert wrong["a"].reason == "right at first, wrong after 3 timed rounds: point 2, output: off"


def test_a_loser_that_is_wrong_now_changes_no_decision() -> None:
    """It is refused, and nobody races again."""
    decision, _, wrong = race_until_right(
        ("a", "b", "original"), fastest_wins, {"a": lambda: RIGHT, "b": lambda: WRONG}
    )
    assert decision.winner == "a"
    assert set(wrong) == {"b"}


def test_raising_and_inconclusive_are_no_pass_either() -> None:
    """Whatever is not a pass is a refusal; where all are refused the original stays."""

    def raising() -> Verdict:
        raise RuntimeError("tired")

    judged = {"a": raising, "b": lambda: Inconclusive(reason="random by now")}
    decision, _, wrong = race_until_right(("a", "b", "original"), fastest_wins, judged)
    assert decision.winner == "original"
    assert "raised RuntimeError: tired" in wrong["a"].reason
    assert "inconclusive: random by now" in wrong["b"].reason


class One(nn.Module):
    """A single slow norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm(16)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 16) to (rows, 16)."""
        result: Tensor = self.norm(x)
        return result


def test_a_fast_candidate_that_turns_wrong_does_not_win() -> None:
    """Right for 60 calls and fastest, then off by 1%: refused, and the next one, still right, wins."""
    calls = 0

    def tiring(self: nn.Module, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return norm(self, x) * (1.0 if calls <= 60 else 1.01)

    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    for impl in (tiring, norm_taking(lambda x: 60)):
        register_layer_kernel("Norm", layer_impl=impl, device="cpu", registry=registry)
    profile = tune_model(One(), torch.randn(8, 16), registry=registry, settings=QUICK, candidates=["impl"])
    (contest,) = profile.contests
    by_name = {trial.candidate.rpartition(".")[2]: trial.outcome for trial in contest.trials}
    refused = by_name["tiring"]
    assert isinstance(refused, Rejection)
    assert refused.stage == "parity"
    assert refused.reason.startswith("right at first, wrong after ")
    assert isinstance(by_name["forward"], Measurement)
    assert contest.selection.winner.endswith("forward")
