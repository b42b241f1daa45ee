"""A winner is timed again, and what is reported is the second figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from tests.tune.test_choose import contest
from tests.tune.toy import QUICK, Norm, norm
from twinkle_tune import load_profile, tune_model
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.outcome import Rejection, Selection
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.tune.confirm import with_second


def always_fast(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Fast in every process."""
    return norm(self, x)


def tuned(impl: object) -> Profile:
    """A profile of one norm."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=impl, device="cpu", registry=registry)  # type: ignore[arg-type]
    torch.manual_seed(0)
    return tune_model(
        nn.Sequential(Norm(16)),
        torch.randn(8, 16),
        registry=registry,
        settings=QUICK,
        candidates=["impl"],
    )


def test_the_second_figure_is_the_one_that_is_reported(tmp_path: Path) -> None:
    """A winner's ratio follows from the times of the confirmation, which the profile keeps."""
    profile = tuned(always_fast)
    (found,) = load_profile(profile.save(tmp_path / "p.json")).contests
    first = found.trial(found.selection.winner).outcome
    second = {trial.candidate: trial.outcome for trial in found.confirmation}
    assert set(second) == {"original", found.selection.winner}
    assert second[found.selection.winner] != first
    assert "timed again in other memory" in found.selection.reason
    assert found.selection.ratio < 0.9


def second_of(first: Contest, winner: str, ratio: float) -> Contest:
    """A second race in which ``winner`` came out ahead."""
    chosen = Selection(winner=winner, ratio=ratio, low=ratio, high=ratio, rounds=9, reason="7.0% faster")
    if winner == "original":
        chosen = Selection(
            winner="original", rounds=30, reason="no clear winner after 30 rounds", status="no clear winner"
        )
    return replace(first, selection=chosen)


def test_a_confirmed_winner_says_both_figures() -> None:
    """The reason has the second gain and the first."""
    first = contest("Norm", original_us=100.0, ratio=0.9)
    made = with_second(first, second_of(first, "fast", 0.93), "in another process")
    assert (made.selection.winner, made.selection.ratio, made.selection.rounds) == ("fast", 0.93, 9)
    assert made.selection.reason == "7.0% faster, timed again in another process; 10.0% at first"
    assert made.trials == first.trials


def test_a_winner_that_loses_or_fails_gives_way() -> None:
    """The original stays, with the second race's reason or with what went wrong in it."""
    first = contest("Norm", original_us=100.0, ratio=0.9)
    lost = with_second(first, second_of(first, "original", 1.0), "in another process").selection
    assert lost.winner == "original"
    assert lost.reason.endswith("but timed again in another process: no clear winner after 30 rounds")
    crashed = second_of(first, "original", 1.0)
    broken = replace(crashed.trials[1], outcome=Rejection(stage="timing", reason="ended the process with SIGSEGV"))
    crashed = replace(crashed, trials=(crashed.trials[0], broken))
    assert with_second(first, crashed, "x").selection.reason.endswith("x: ended the process with SIGSEGV")
