"""A run takes from the store what was measured before, for another model too."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune.pretended import WIDTHS, Pretended, Wide, pretended_profile, selections
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.outcome import Rejection, Selection
from twinkle_tune.profile.outcomes import StoreDamagedError, StoreError
from twinkle_tune.profile.schema import Contest
from twinkle_tune.profile.store import Store


def test_another_model_with_the_same_shapes_measures_only_what_is_new(tmp_path: Path) -> None:
    """The contests of known shapes are taken, with the new model's places; the others are held and kept."""
    store, first, second = Store(tmp_path / "s"), Pretended(), Pretended()
    small = pretended_profile(first, store=store, model=Wide(WIDTHS[:2]))
    large = pretended_profile(second, store=store, model=Wide((*WIDTHS[::-1], *WIDTHS)))
    assert (len(first.held), len(second.held)) == (2, len(WIDTHS) - 2)
    known = {contest.workload.key: contest for contest in small.contests}
    taken = [contest for contest in large.contests if contest.workload.key in known]
    assert len(taken) == 2
    for contest in taken:
        before = known[contest.workload.key]
        assert contest.selection.winner == before.selection.winner
        assert contest.trials == before.trials
        assert contest.selection.reason.startswith(f"{before.selection.reason}; measured 2")
        assert len(contest.instances) == 2
    assert len([row for row in store.rows() if row.slot == "Quick"]) == len(WIDTHS)


def test_other_settings_and_fresh_measure_anew(tmp_path: Path) -> None:
    """A race with other settings or another objective, and a run that is to be fresh, take nothing from the store."""
    store = Store(tmp_path / "s")
    whole = selections(pretended_profile(Pretended(), store=store))
    for options in (
        {"store": store, "settings": RaceSettings(max_rounds=50)},
        {"store": store, "objective": "memory"},
        {"store": store, "objective": "balanced"},
        {"store": store, "objective": "balanced", "slowdown": 1.2},
        {"store": Store(tmp_path / "s", reuse=False)},
        {},
    ):
        executor = Pretended()
        again = selections(pretended_profile(executor, **options))
        assert [(key, chosen.winner) for key, chosen in again] == [(key, chosen.winner) for key, chosen in whole]
        assert len(executor.held) == len(WIDTHS)


def test_a_store_that_fills_up_does_not_end_a_run(tmp_path: Path) -> None:
    """Where an outcome cannot be kept that is a warning, and the profile is made."""
    store = Store(tmp_path / "s")
    with sqlite3.connect(tmp_path / "s") as base:
        base.execute("CREATE TRIGGER full BEFORE INSERT ON outcomes BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    with pytest.warns(UserWarning, match=r"disk is full.*; the rest of this run goes without it"):
        profile = pretended_profile(Pretended(), store=store)
    assert profile.complete


class _Offline(Pretended):
    def hold(self, *rest: object) -> Contest:
        """A contest in which one candidate's code could not be had."""
        held = super().hold(*rest)  # type: ignore[arg-type]
        gone = replace(held.trials[-1], digest="", outcome=Rejection(stage="load", reason="no network"))
        won = Selection(winner="original", reason="invented")
        return replace(held, trials=(*held.trials[:-1], gone), selection=won)


def test_what_is_of_the_moment_is_not_stored(tmp_path: Path) -> None:
    """A contest with a candidate that could not be had is in the profile, and not in the store."""
    store = Store(tmp_path / "s")
    assert len(pretended_profile(_Offline(), store=store).contests) == len(WIDTHS)
    assert [row for row in store.rows() if row.slot == "Quick"] == []


def test_a_store_that_is_busy_does_not_end_a_run_and_a_damaged_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that cannot be read now is gone without, with a warning; what it holds wrongly is an error."""
    store = Store(tmp_path / "s")
    pretended_profile(Pretended(), store=store)
    executor = Pretended()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "recall", _busy)
        with pytest.warns(UserWarning, match="busy; the rest of this run goes without it"):
            pretended_profile(executor, store=Store(tmp_path / "s"))
    assert len(executor.held) == len(WIDTHS)
    with sqlite3.connect(tmp_path / "s") as base:
        base.execute("UPDATE outcomes SET contest = '{}'")
    with pytest.raises(StoreDamagedError, match="entry"):
        pretended_profile(Pretended(), store=store)


def _busy(*_: object) -> None:
    raise StoreError("busy")
