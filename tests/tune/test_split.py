"""A tensor-parallel model is tuned by its ranks together: whole layers compete, split ones keep their original."""

from __future__ import annotations

import os

import pytest
import torch

from tests.ranks import Each, run_cases
from tests.tune.split_cases import CASES, WORLD

pytestmark = [
    pytest.mark.skipif(
        not torch.distributed.is_available() or not hasattr(os, "fork"), reason="torch.distributed or fork is not there"
    ),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Each]:
    """What came of each case, rank by rank."""
    return run_cases("tests.tune.split_cases", CASES, WORLD, tmp_path_factory.mktemp("ranks"))


def test_split_layers_keep_their_original_and_say_so(found: dict[str, Each]) -> None:
    """No contest is held on an MLP whose matrices are split; norms, which are whole, compete. It computes the same."""
    for told in found["tuned"]:
        status, reason, trials = told["slots"]["GatedMLP"]
        assert (status, trials) == ("inconclusive", 0)
        assert "its weights are split over ranks" in reason
        assert told["slots"]["RMSNorm"][2] > 1
        assert reason in told["kept"]
        assert told["right"]


def test_one_rank_does_not_tune_it_alone(found: dict[str, Each]) -> None:
    """It would wait for the others for ever, and is told what to pass."""
    for told in found["alone"]:
        assert told["raised"].startswith("TuneError: model: its weights are split over several ranks")
        assert "expected group=" in told["raised"]


def test_a_profile_of_the_whole_model_binds_what_is_whole(found: dict[str, Each]) -> None:
    """Kernels of whole layers run; one for a split layer does not, and logits and gradients are those without it."""
    for told in found["bound"]:
        assert told["right"]
        assert any("or has a hook: the original runs" in reason for reason in told["kept"])
