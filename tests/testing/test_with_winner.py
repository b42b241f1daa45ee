"""A given winner in a profile: only what was measured and right, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.report.fabricate import contest, kept, measurement, profile, trial, won
from twinkle_tune import kernelize_model, kernelize_report, tune_model
from twinkle_tune.errors import ProfileError
from twinkle_tune.outcome import Rejection, Selection
from twinkle_tune.profile.meaning import check_meaning
from twinkle_tune.testing import with_winner


def test_the_rival_with_the_smallest_time_wins_where_none_is_named() -> None:
    """Each contest with a measured rival has one as its winner, also a slower one, with its measured figures."""
    made = with_winner(profile(won(), kept()))
    first, second = made.contests
    assert (first.selection.winner, second.selection.winner) == ("fused", "liger")
    assert first.selection.ratio == pytest.approx(0.8)
    assert second.selection.low <= second.selection.ratio <= second.selection.high
    check_meaning(made, "made")


def test_a_named_slot_and_candidate_change_alone() -> None:
    """Contests of other slots, trials and whole-model figures stay as they were."""
    before = profile(won(), kept())
    made = with_winner(before, "RMSNorm", "slow")
    assert made.contests[0].selection.winner == "slow"
    assert made.contests[1:] == before.contests[1:]
    assert replace(made, contests=before.contests) == before


def test_what_was_refused_cannot_be_put_in() -> None:
    """A candidate that did not pass the check is an error that names those that did."""
    with pytest.raises(ProfileError, match=r"candidate='wrong', expected a rival .*fused, slow"):
        with_winner(profile(won()), candidate="wrong")
    with pytest.raises(ProfileError, match=r"slot='Norm', expected a slot of the profile \(RMSNorm\)"):
        with_winner(profile(won()), "Norm")


def test_a_contest_without_a_right_rival_keeps_its_original() -> None:
    """Where every rival was refused the original stays."""
    refused = contest(
        trial("original", measurement(1.0), "original"),
        trial("wrong", Rejection(stage="parity", reason="wrong")),
        selection=Selection(winner="original", reason="every other candidate was refused"),
    )
    made = profile(refused)
    assert with_winner(made).contests == made.contests


def test_the_winner_that_was_put_in_is_bound() -> None:
    """A profile made by a run binds the rival that was put in, whatever the race said."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 64), nn.RMSNorm(64)).eval(), torch.randn(8, 64)
    made = tune_model(model, [x], mode="inference", device="cpu", candidates=["torch"], budget_s=30)
    kernelize_model(model, mode="inference", device="cpu", profile=with_winner(made, "RMSNorm", "torch.vector_norm"))
    assert "torch.vector_norm" in str(kernelize_report(model).bound)
