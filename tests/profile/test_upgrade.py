"""Profiles of schema 1 as today's: what they told in sentences is a word now."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report import fabricate
from twinkle_tune.cause import Cause
from twinkle_tune.outcome import Phase, Rejection
from twinkle_tune.profile.format import SCHEMA
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.json_text import to_data
from twinkle_tune.profile.past import contest_from_text, contest_text, is_lasting
from twinkle_tune.profile.schema import Contest

SHIPPED = sorted(path for path in (Path(__file__).parents[2] / "profiles").glob("*/*.json"))
TOLD: list[tuple[Phase, str, Cause]] = [
    ("load", "no such repo", "unavailable"),
    ("capability", "has no backward", "unfit"),
    ("first call", "raised ValueError: no", "raised"),
    ("first call", "did not finish its first call within 60 s", "timeout"),
    ("timing", "raised while it was timed: RuntimeError: x", "raised"),
    ("parity", "point 2, output: off", "wrong"),
    ("parity", "inconclusive: the original differs from itself", "inconclusive"),
    ("parity", "took more host memory than allowed (limit 1.0 GiB): MemoryError", "out of memory"),
    ("parity", "took more device memory than allowed: OutOfMemoryError: CUDA", "out of device memory"),
    ("parity", "ended the process with signal SIGSEGV", "crashed"),
    ("parity", "changed torch.float32_matmul_precision, which others in the process share", "meddled"),
]


def without_words(value: Any) -> Any:
    """JSON of schema 2 as schema 1 had it."""
    if isinstance(value, dict):
        new = ("cause", "config_cut_short", "status", "repo", "layer") if value.get("kind") != "untimed" else ()
        return {name: without_words(each) for name, each in value.items() if name not in new}
    return [without_words(each) for each in value] if isinstance(value, list) else value


def refused(stage: Phase, reason: str) -> Contest:
    """A contest with a candidate that was refused so, without a cause."""
    won = fabricate.won()
    trial = replace(won.trials[0], candidate="refused", outcome=Rejection(stage=stage, reason=reason))
    return replace(won, trials=(*won.trials, trial))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_profiles_are_read_as_todays(path: Path) -> None:
    """A shipped profile of whatever schema has a status for each contest and a cause for each rejection."""
    profile = load_profile(path)
    assert profile.schema == SCHEMA
    assert all(contest.selection.status for contest in profile.contests)
    outcomes = [trial.outcome for contest in profile.contests for trial in contest.trials]
    assert all(outcome.cause for outcome in outcomes if isinstance(outcome, Rejection))


@pytest.mark.parametrize(("stage", "reason", "cause"), TOLD)
def test_an_old_reason_has_its_cause(stage: Phase, reason: str, cause: Cause, tmp_path: Path) -> None:
    """What a rejection of schema 1 told by how its reason begins, and where, is its cause."""
    data = without_words(to_data(replace(fabricate.normal(), contests=(refused(stage, reason),)))) | {"schema": 1}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(data))
    outcome = load_profile(path).contests[0].trials[-1].outcome
    assert isinstance(outcome, Rejection)
    assert outcome.cause == cause


def test_an_old_status_is_what_it_was_read_as(tmp_path: Path) -> None:
    """Where schema 1 had no status, the reason told a contest that noise decided from one that was held."""
    contest = fabricate.won()
    kept = [
        replace(contest, selection=replace(contest.selection, winner="original", status="", reason=reason))
        for reason in ("no clear winner after 40 rounds", "nobody was faster")
    ]
    data = without_words(to_data(replace(fabricate.normal(), contests=tuple(kept)))) | {"schema": 1}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(data))
    assert [each.selection.status for each in load_profile(path).contests] == ["no clear winner", "kept"]


def test_a_stored_outcome_of_before_is_read_as_todays() -> None:
    """A contest that a store holds from before causes were written has them when it is recalled; one of today stays."""
    contest = refused("parity", "raised ValueError: no")
    old = json.dumps(without_words(json.loads(contest_text(contest))))
    assert not is_lasting(contest_from_text(old, "a store", "remove it"))
    assert contest_from_text(contest_text(contest), "a store", "remove it") == contest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"hub:org/repo:RMSNorm@{'a' * 40}", ("org/repo", "RMSNorm", "a" * 40)),
        ("hub:org/repo:RMSNorm@main#2", ("org/repo", "RMSNorm", "")),
        ("mine", ("", "", "")),
    ],
)
def test_an_old_hub_candidate_has_its_repo(name: str, expected: tuple[str, str, str], tmp_path: Path) -> None:
    """Schema 1 told the repo and the layer in the candidate's name alone, and the commit where it was pinned."""
    won = fabricate.won()
    trial = replace(won.trials[0], candidate=name, source="hub")
    contest = replace(won, trials=(*won.trials, trial))
    data = without_words(to_data(replace(fabricate.normal(), contests=(contest,)))) | {"schema": 1}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(data))
    found = load_profile(path).contests[0].trials[-1]
    assert (found.repo, found.layer, found.commit) == expected
