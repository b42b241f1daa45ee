"""Between shapes with different winners a few contests more say which one runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.tune.test_choose import contest
from tests.tune.toy import QUICK, Norm, norm, spin
from twinkle_tune import kernelize_model, load_profile, restore_model, tune_model
from twinkle_tune.call.arguments import Call
from twinkle_tune.call.rows import with_rows
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.outcome import Trial
from twinkle_tune.profile.schema import Contest, Seen
from twinkle_tune.tune.refine import EXTRA, next_between, without_orphans
from twinkle_tune.workload import TensorSpec


class Rows(Norm):
    """A norm that takes 100 µs and 1 µs a row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, width) to (rows, width)."""
        spin(100 + x.shape[0])
        return norm(self, x)


def for_few(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Best below 120 rows."""
    spin(20 + 2 * x.shape[0])
    return norm(self, x)


def for_many(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Best from 120 rows."""
    spin(200 + 0.5 * x.shape[0])
    return norm(self, x)


CANDIDATES: dict[str, Callable[..., torch.Tensor]] = {"original": Rows.forward, "few": for_few, "many": for_many}
MEASURED, HELD_OUT = (1, 1024), (2, 7, 30, 55, 260, 400, 700, 1000)


def registry() -> Registry:
    """One with both."""
    made = Registry()
    register_external_layer(Rows, "Norm", registry=made)
    for impl in (for_few, for_many):
        register_layer_kernel("Norm", layer_impl=impl, device="cpu", registry=made)
    return made


@torch.no_grad()
def taken_us(call: Callable[..., object], *first: object) -> float:
    """Microseconds of calls at all held-out row counts together, each the fastest of nine."""
    total_us = 0.0
    for rows in HELD_OUT:
        x, times_us = torch.zeros(rows, 16), []
        for _ in range(9):
            began_ns = time.perf_counter_ns()
            call(*first, x)
            times_us.append((time.perf_counter_ns() - began_ns) / 1e3)
        total_us += min(times_us)
    return total_us


def test_a_dispatcher_is_as_good_as_the_best_single_choice_where_nothing_was_measured(tmp_path: Path) -> None:
    """Over held-out row counts it takes at most 3% more than any one candidate would, from two measured shapes."""
    model = nn.Sequential(Rows(16))
    inputs = [torch.randn(rows, 16) for rows in MEASURED]
    profile = tune_model(model, inputs, registry=registry(), settings=QUICK, candidates=["impl"])
    extra = [c for c in profile.contests if not c.seen]
    assert 1 <= len(extra) <= EXTRA
    again = load_profile(profile.save(tmp_path / "p.json"))
    alone = {name: taken_us(call, model[0]) for name, call in CANDIDATES.items()}
    kernelize_model(model, profile=again, registry=registry())
    bound = taken_us(model)
    restore_model(model)
    assert bound <= 1.03 * min(alone.values())


def at(rows: int, winner: str, *, seen: bool = True, source: str = "impl") -> Contest:
    """A contest at a row count that this candidate won."""
    made = contest("Norm", original_us=100.0, ratio=0.5 if winner != "original" else 1.0)
    trials = tuple(replace(t, candidate=winner, source=source) if t.candidate == "fast" else t for t in made.trials)
    return replace(
        made,
        workload=replace(made.workload, args=(TensorSpec(dtype="float32", shape=(rows, 4), stride=(4, 1)),)),
        trials=trials,
        selection=replace(made.selection, winner=winner),
        seen=(Seen(step=f"forward {rows}", calls=1, share=0.1),) if seen else (),
    )


@pytest.mark.parametrize(
    ("contests", "rows"),
    [
        ([at(1, "few"), at(1024, "many")], 32),
        ([at(1, "few"), at(32, "few"), at(1024, "many")], 181),
        ([at(1, "few"), at(1024, "few")], None),
        ([at(1, "original"), at(1024, "many")], 32),
        ([at(100, "few"), at(190, "many")], None),
        ([at(1, "original"), at(1024, "compile", source="compile")], None),
        ([at(1, "few"), *(at(rows, "few", seen=False) for rows in (8, 16, 32)), at(1024, "many")], None),
    ],
)
def test_the_widest_gap_between_different_winners_is_halved(contests: list[Contest], rows: int | None) -> None:
    """In the ratio of row counts; not where winners agree or are near, nor for one compiled for each shape, nor on."""
    found = next_between(contests)
    assert (found.rows if found else None) == rows


def test_a_contest_that_was_not_run_says_nothing() -> None:
    """Beside a contest that the budget did not reach nothing is looked for."""
    untried = replace(at(1, "original"), trials=())
    assert next_between([untried, at(1024, "many")]) is None


def test_what_the_model_does_not_keep_is_not_kept_in_between() -> None:
    """An unseen winner goes when no seen contest of its form has it any more."""
    kept = without_orphans([at(1, "few"), at(32, "few", seen=False), at(64, "many", seen=False), at(1024, "original")])
    assert [c.selection.winner for c in kept] == ["few", "few", "original", "original"]


def test_calls_are_cut_along_in_every_tensor() -> None:
    """A rotary call of 2 x 3 heads x 64 positions, cut to 96 rows, has 16 positions in the tables too."""
    q, table = torch.randn(2, 3, 64, 8), torch.randn(2, 64, 8)
    cut = with_rows(Call(args=(q, table), kwargs={"flag": 1}), 96)
    assert cut is not None
    assert [tuple(t.shape) for t in cut.args] == [(2, 3, 16, 8), (2, 16, 8)]
    assert torch.equal(cut.args[0], q[:, :, :16])
    assert with_rows(Call(args=(q, table), kwargs={}), 6 * 64) is None
    assert with_rows(Call(args=(torch.randn(4),), kwargs={}), 2) is None
    assert with_rows(Call(args=(torch.randn(2, 64, 64),), kwargs={}), 30) is None, "the width would be cut along"


class Even(Rows):
    """A norm that takes its rows in pairs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, width) to (rows, width)."""
        if x.shape[0] % 2 and x.shape[0] > 1:
            raise RuntimeError("expected pairs")
        return super().forward(x)


def test_a_made_up_call_that_the_original_refuses_is_left_alone() -> None:
    """Where the original raises at 31 rows nothing is looked for between 1 and 961, and the run goes on."""
    made = Registry()
    register_external_layer(Even, "Norm", registry=made)
    for impl in (for_few, for_many):
        register_layer_kernel("Norm", layer_impl=impl, device="cpu", registry=made)
    inputs = [torch.randn(rows, 16) for rows in (1, 962)]
    profile = tune_model(nn.Sequential(Even(16)), inputs, registry=made, settings=QUICK, candidates=["impl"])
    assert len({c.selection.winner for c in profile.contests}) == 2
    assert all(c.seen for c in profile.contests)


def test_trials_of_the_extra_contests_are_of_the_winners_alone() -> None:
    """Who lost on both sides is not tried again in between."""
    made = registry()
    register_layer_kernel("Norm", layer_impl=slow, device="cpu", registry=made)
    inputs = [torch.randn(rows, 16) for rows in MEASURED]
    profile = tune_model(nn.Sequential(Rows(16)), inputs, registry=made, settings=QUICK, candidates=["impl"])

    def names(trials: tuple[Trial, ...]) -> set[str]:
        return {trial.candidate.rpartition(":")[2] for trial in trials}

    (first, *_) = [c for c in profile.contests if not c.seen]
    assert names(first.trials) == {"original", "for_few", "for_many"}
    assert "slow" in names(next(c for c in profile.contests if c.seen).trials)


def slow(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Never best."""
    spin(2000)
    return norm(self, x)
