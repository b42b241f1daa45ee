"""What holds for every store of past outcomes: the file, and the server where there is PostgreSQL."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.profile.test_store import QUESTION
from tests.report import fabricate
from tests.tune.test_asking import QUESTION as WHOLE
from tests.tune.test_asking import WINS
from twinkle_tune.profile.outcomes import Outcomes, StoreError
from twinkle_tune.profile.past import Question, contest_from_text
from twinkle_tune.profile.stores import store_at, store_place
from twinkle_tune.profile.whole import WholeAnswer

ANSWER = WholeAnswer(setups=(WINS,))


@pytest.fixture(params=["file", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty store can be."""
    if request.param == "file":
        return str(tmp_path / "s.sqlite")
    return str(request.getfixturevalue("postgres").database())


def opened(place: str, *, reuse: bool = True) -> Outcomes:
    """A handle of the store there."""
    found = store_place(place)
    assert found is not None
    return store_at(found, reuse=reuse)


def test_what_one_keeps_another_finds(place: str) -> None:
    """Contests and answers are found by their questions through another handle, whichever was opened first."""
    first, second = opened(place), opened(place)
    first.keep(QUESTION, fabricate.won())
    first.keep_whole(WHOLE, ANSWER)
    found = second.recall(QUESTION)
    assert found is not None
    assert found.contest == fabricate.won()
    assert second.recall_whole(WHOLE) is not None
    assert second.recall(replace(QUESTION, environment="0" * 16)) is None
    assert second.recall_whole(replace(WHOLE, model="other")) is None


def test_the_last_outcome_stays(place: str) -> None:
    """A handle without reuse takes nothing, and what it keeps replaces what was there."""
    opened(place).keep(QUESTION, fabricate.won())
    fresh = opened(place, reuse=False)
    assert fresh.recall(QUESTION) is None
    fresh.keep(QUESTION, replace(fabricate.won(), instances=("new",)))
    (found,) = [opened(place).recall(QUESTION)]
    assert found is not None
    assert found.contest.instances == ("new",)


def test_all_of_it_is_listed_written_out_and_removed(place: str) -> None:
    """Rows have their columns, exported lines the whole outcome; what is young stays, and the rest goes."""
    store = opened(place)
    store.keep(QUESTION, fabricate.won())
    store.keep_whole(WHOLE, ANSWER)
    rows = {row.key: row for row in store.rows()}
    assert rows.keys() == {QUESTION.key, WHOLE.key}
    assert (rows[QUESTION.key].slot, rows[QUESTION.key].device) == (QUESTION.slot, "cpu")
    lines = {line["key"]: line for line in map(json.loads, store.export())}
    assert contest_from_text(json.dumps(lines[QUESTION.key]["contest"]), "x", "y") == fabricate.won()
    assert lines[WHOLE.key]["question"]["model"] == WHOLE.model
    assert "whole" in lines[WHOLE.key]
    assert store.prune(older_than_s=3600) == 0
    assert store.prune() == 2
    assert store.rows() == ()


def test_a_damaged_entry_is_never_taken(place: str) -> None:
    """An entry that is no contest is told, with the store's and its own name, and not taken."""
    store = opened(place)
    store.keep(QUESTION, fabricate.won())
    _damage(place)
    told = ""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            assert store.recall(QUESTION) is None
        except StoreError as error:
            told = str(error)
    assert f"{store.where}: entry {QUESTION.key}" in (told or str(warned[0].message))


def _damage(place: str) -> None:
    command = "UPDATE {} SET contest = '[]'"
    if "://" in place:
        import psycopg

        with psycopg.connect(place) as server:
            server.execute(command.format("twinkle_tune_outcomes_1").encode())
    else:
        import sqlite3

        with sqlite3.connect(place) as base:
            base.execute(command.format("outcomes"))


def _question(process: int, number: int) -> Question:
    """One of its own for each outcome; each tenth is the same for all processes."""
    return replace(QUESTION, workload=f"{number if number % 10 == 0 else (process << 32) + number:016x}")


def _write(place: str, taken: Path, process: int, outcomes: int) -> None:
    """Keep outcomes, and write down the number of each that the store has taken."""
    store = opened(place)
    with taken.open("w", encoding="utf-8", buffering=1) as log:
        for number in range(outcomes):
            store.keep(_question(process, number), fabricate.won())
            log.write(f"{number}\n")


def test_eight_processes_write_at_once_and_three_are_killed(place: str, tmp_path: Path) -> None:
    """Whatever was kept is there and whole, whoever was killed (kill -9) in the middle, and the others go on."""
    outcomes, killed, fork = 60, {0: 3, 3: 10, 6: 20}, get_context("fork")
    logs = [tmp_path / f"taken-{process}" for process in range(8)]
    writers = [
        fork.Process(target=_write, args=(place, log, process, 10**6 if process in killed else outcomes))
        for process, log in enumerate(logs)
    ]
    for writer in writers:
        writer.start()
    for victim, number in killed.items():
        _wait_for(logs[victim], number)
        writers[victim].kill()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [-9 if process in killed else 0 for process in range(8)]
    taken = {process: [int(line) for line in log.read_text().split()] for process, log in enumerate(logs)}
    kept = {_question(process, number).key for process, numbers in taken.items() for number in numbers}
    assert len(kept) > 5 * outcomes * 0.9
    assert kept <= {json.loads(line)["key"] for line in opened(place).export()}


def _wait_for(path: Path, lines: int) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_text().count("\n") < lines:
        assert time.monotonic() < deadline
        time.sleep(0.002)
