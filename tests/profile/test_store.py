"""The store of past outcomes: what is taken from it, what is not, and what becomes of a damaged one."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report import fabricate
from twinkle_tune.cause import Cause
from twinkle_tune.cli.app import run
from twinkle_tune.errors import ProfileError, TuneError
from twinkle_tune.measure.settings import RaceSettings
from twinkle_tune.mode import Mode
from twinkle_tune.objective import Aim, Objective
from twinkle_tune.outcome import Rejection, Trial
from twinkle_tune.profile.folders import cache_folder, usable_folder
from twinkle_tune.profile.outcomes import StoreDamagedError, StoreError
from twinkle_tune.profile.past import Question, contest_from_text, contest_text, is_lasting
from twinkle_tune.profile.schema import Contest
from twinkle_tune.profile.store import Store
from twinkle_tune.profile.stores import store_place
from twinkle_tune.terms import Terms

QUESTION = Question(
    slot="RMSNorm",
    workload=fabricate.won().workload.key,
    terms=Terms(mode=Mode.INFERENCE, device="cpu"),
    environment="0123456789abcdef",
    candidates=(("original", "1"), ("fused", "2")),
    tool="twinkle_tune 0.1.0",
)


def kept(path: Path) -> Store:
    """A store with one outcome."""
    store = Store(path)
    store.keep(QUESTION, fabricate.won())
    return store


def test_an_outcome_is_found_by_its_question_alone(tmp_path: Path) -> None:
    """The same question gets the contest that was kept; one that differs in anything gets none."""
    store = kept(tmp_path / "s.sqlite")
    found = store.recall(replace(QUESTION, candidates=QUESTION.candidates[::-1]))
    assert found is not None
    assert found.contest == fabricate.won()
    other_terms = (
        replace(QUESTION.terms, mode=Mode.TRAIN),
        replace(QUESTION.terms, device="cuda"),
        replace(QUESTION.terms, settings=RaceSettings(min_gain=0.03)),
        replace(QUESTION.terms, aim=Aim(objective=Objective.MEMORY)),
        replace(QUESTION.terms, dynamic=True),
    )
    others = (
        replace(QUESTION, workload="0" * 16),
        *(replace(QUESTION, terms=terms) for terms in other_terms),
        replace(QUESTION, environment="0" * 16),
        replace(QUESTION, candidates=(("original", "1"), ("fused", "3"))),
        replace(QUESTION, candidates=QUESTION.candidates[:1]),
        replace(QUESTION, tool="twinkle_tune 0.2.0"),
        replace(QUESTION, slot="LayerNorm"),
    )
    assert [store.recall(other) for other in others] == [None] * len(others)


SHAPED = Terms(mode=Mode.COMPILE, device="cpu", dynamic=False)
BALANCED = Terms(
    mode=Mode.TRAIN_COMPILE,
    device="cuda",
    dynamic=True,
    aim=Aim(objective=Objective.BALANCED, slowdown=1.1),
    settings=RaceSettings(min_gain=0.03),
)


@pytest.mark.parametrize(
    ("terms", "block", "key"),
    [
        (QUESTION.terms, "", "a79b8f9abf08e448"),
        (SHAPED, "abcd", "104534c5d98e0c04"),
        (BALANCED, "", "a63b28a4aacf0f01"),
    ],
)
def test_what_was_stored_long_ago_is_found(terms: Terms, block: str, key: str) -> None:
    """The keys of method 3 stay what they are; the seed is no part of them."""
    question = replace(QUESTION, workload="00c0ffee00c0ffee", terms=terms, block=block)
    assert question.key == key
    assert replace(question, terms=replace(terms, seed=7)).key == key


def test_what_was_judged_by_another_rule_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule's number counts up; what was stored before it was counted is of the first one."""
    store = kept(tmp_path / "s.sqlite")
    monkeypatch.setattr("twinkle_tune.terms.RULE", 2)
    assert store.recall(QUESTION) is None
    monkeypatch.setattr("twinkle_tune.terms.RULE", 1)
    assert store.recall(QUESTION) is not None


def test_several_processes_may_use_it(tmp_path: Path) -> None:
    """What one connection keeps another one finds at once, also after both were open."""
    first, second = Store(tmp_path / "s.sqlite"), Store(tmp_path / "s.sqlite")
    first.keep(QUESTION, fabricate.won())
    assert second.recall(QUESTION) is not None
    second.keep(QUESTION, fabricate.won())
    assert len(first.rows()) == 1


def test_fresh_takes_nothing_and_keeps(tmp_path: Path) -> None:
    """Without reuse nothing is taken, and what is kept replaces what was there."""
    kept(tmp_path / "s.sqlite").close()
    fresh = Store(tmp_path / "s.sqlite", reuse=False)
    assert fresh.recall(QUESTION) is None
    fresh.keep(QUESTION, replace(fabricate.won(), instances=("new",)))
    (found,) = [Store(tmp_path / "s.sqlite").recall(QUESTION)]
    assert found is not None
    assert found.contest.instances == ("new",)


def test_it_is_the_user_s_own(tmp_path: Path) -> None:
    """Folders that are made have mode 0700, the file 0600."""
    kept(tmp_path / "a" / "b" / "s.sqlite")
    assert [(tmp_path / each).stat().st_mode & 0o777 for each in ("a", "a/b")] == [0o700] * 2
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "a" / "b").iterdir()} == {0o600}


def _with_stage(stage: str) -> Contest:
    won = fabricate.won()
    refused = Trial(candidate="x", source="impl", digest="3", outcome=Rejection(stage=stage, reason="y"))  # type: ignore[arg-type]
    measured = tuple(trial for trial in won.trials if not isinstance(trial.outcome, Rejection))
    return replace(won, trials=(*measured, refused))


def test_what_may_be_otherwise_the_next_time_is_not_lasting() -> None:
    """Rejections at loading, calling and timing, and code that could not be had, are of the moment."""
    lasting = {
        stage: is_lasting(_with_stage(stage))
        for stage in ("load", "signature", "capability", "first call", "parity", "timing")
    }
    assert {stage for stage, holds in lasting.items() if holds} == {"signature", "capability", "parity"}
    won = _with_stage("parity")
    causes: tuple[Cause, ...] = ("crashed", "out of device memory")
    for cause in causes:
        refused = replace(won.trials[-1], outcome=Rejection(stage="parity", reason="whatever", cause=cause))
        assert not is_lasting(replace(won, trials=(*won.trials[:-1], refused)))
    assert not is_lasting(replace(won, trials=(replace(won.trials[0], digest=""), *won.trials[1:])))
    assert not is_lasting(replace(won, trials=()))


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to be looked at " * 50)


def _damaged(path: Path) -> None:
    kept(path).close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)


def _newer(path: Path) -> None:
    kept(path).close()
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA user_version = 9")


@pytest.mark.parametrize("trouble", [_garbage, _damaged, _newer])
def test_a_store_that_cannot_be_read_is_told(tmp_path: Path, trouble: object) -> None:
    """Damage is an error that names the file and says to move it away; nothing is ignored or removed."""
    path = tmp_path / "s.sqlite"
    assert callable(trouble)
    trouble(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=rf"^{path}: .*(move it away|move the file away)"):
        Store(path).recall(QUESTION)
    assert path.read_bytes() == before


def _foreign(path: Path, version: int, mode: str) -> None:
    with sqlite3.connect(path) as base:
        base.execute(f"PRAGMA journal_mode={mode}")
        base.execute("CREATE TABLE bookmarks (url TEXT)")
        base.execute("INSERT INTO bookmarks VALUES ('x')")
        base.execute(f"PRAGMA user_version = {version}")
    base.close()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("version", [0, 1, 7])
@pytest.mark.parametrize("is_open", [False, True])
def test_another_program_s_database_is_left_alone(tmp_path: Path, version: int, mode: str, is_open: bool) -> None:
    """An SQLite file of another program, in use or not, is refused with that reason and untouched to the byte."""
    path = tmp_path / "bookmarks.sqlite"
    _foreign(path, version, mode)
    other = sqlite3.connect(path)
    if is_open:
        other.execute("INSERT INTO bookmarks VALUES ('y')")
        other.commit()
    else:
        other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"got another program's database \(tables bookmarks\)"):
        Store(path)
    assert path.read_bytes() == before
    other.close()


@pytest.mark.parametrize("text", [b"my notes, which are no database", b"\0" * 5000])
def test_a_file_of_another_kind_is_left_alone(tmp_path: Path, text: bytes) -> None:
    """A file that is no database is refused and untouched."""
    (tmp_path / "notes").write_bytes(text)
    with pytest.raises(StoreDamagedError, match="expected an SQLite file"):
        Store(tmp_path / "notes")
    assert (tmp_path / "notes").read_bytes() == text


def test_a_pipe_is_no_store(tmp_path: Path) -> None:
    """A FIFO as the store is refused, and not waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="got no file"):
        Store(tmp_path / "pipe")


@pytest.mark.parametrize("unset", [("HOME", "XDG_CACHE_HOME"), ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME")])
def test_no_home_is_no_obstacle(tmp_path: Path, unset: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no home is known (an unknown user in a container), the folder is among the temporary files, and told."""
    for name in (*unset, "TWINKLE_TUNE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    told: list[str] = []
    assert usable_folder(told.append) == cache_folder() == tmp_path / f"twinkle_tune-{os.geteuid()}"
    assert len(told) == 1
    assert "Could not determine home" in told[0]
    assert (tmp_path / f"twinkle_tune-{os.geteuid()}").stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("TWINKLE_TUNE_STORE", "~nosuch/store")
    with pytest.raises(StoreError, match="no home is known"):
        store_place()


def test_a_full_cache_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache folder's disk is full, another folder is used and told; nothing is left in the full one."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    real, full = os.write, tmp_path / "full"

    def write(file: int, content: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{file}").startswith(str(full)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, content)

    monkeypatch.setattr("twinkle_tune.profile.folders.os.write", write)
    monkeypatch.setenv("TWINKLE_TUNE_CACHE", str(full))
    told: list[str] = []
    assert usable_folder(told.append) == tmp_path / f"twinkle_tune-{os.geteuid()}"
    assert "No space left on device" in told[0]
    assert list(full.iterdir()) == []


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the temporary files a folder that others can write to is refused, be it of our name."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TWINKLE_TUNE_CACHE", "~nosuch/cache")
    trap = tmp_path / f"twinkle_tune-{os.geteuid()}"
    trap.mkdir()
    trap.chmod(0o777)
    with pytest.raises(TuneError, match="belongs to somebody else"):
        usable_folder(print)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected"),
        (contest_text(fabricate.won()).replace('"fused"', '"nobody"', 1), "nobody|fused"),
        (contest_text(fabricate.won()).replace('"instances"', '"luck": 1, "instances"', 1), "the field luck"),
    ],
)
def test_an_entry_is_checked_like_a_profile(tmp_path: Path, text: str, message: str) -> None:
    """An entry that is no contest is an error that names file and entry, and is not taken."""
    path = tmp_path / "s.sqlite"
    kept(path).close()
    with sqlite3.connect(path) as base:
        base.execute("UPDATE outcomes SET contest = ?", (text,))
    with pytest.raises(StoreDamagedError, match=rf"^{path}: entry {QUESTION.key}.*({message})"):
        Store(path).recall(QUESTION)
    with pytest.raises(ProfileError):
        contest_from_text(text, "x", "y")


def test_the_place_of_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TWINKLE_TUNE_STORE names it or turns it off; else it is in the cache folder."""
    monkeypatch.setenv("TWINKLE_TUNE_STORE", str(tmp_path / "mine"))
    assert store_place() == tmp_path / "mine"
    monkeypatch.setenv("TWINKLE_TUNE_STORE", "off")
    assert store_place() is None
    monkeypatch.delenv("TWINKLE_TUNE_STORE")
    monkeypatch.delenv("TWINKLE_TUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert store_place() == tmp_path / "cache" / "twinkle_tune" / "store.sqlite"


# The commands


@pytest.fixture
def filled() -> Store:
    """The user's store with one outcome."""
    path = store_place()
    assert isinstance(path, Path)
    return kept(path)


def test_list_export_and_prune(filled: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is there is listed, written with its evidence, kept while it is young, and removed."""
    assert run(["store", "list"]) == 0
    assert "RMSNorm" in capsys.readouterr().out
    assert run(["store", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["key"] == QUESTION.key
    assert run(["store", "export", str(tmp_path / "o.jsonl")]) == 0
    (line,) = (tmp_path / "o.jsonl").read_text().splitlines()
    assert contest_from_text(json.dumps(json.loads(line)["contest"]), "x", "y") == fabricate.won()
    assert run(["store", "prune", "--older-than", "30d"]) == 0
    assert len(filled.rows()) == 1
    assert run(["store", "prune"]) == 0
    assert filled.rows() == ()


def test_looking_makes_no_store(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a store its commands say so and make none."""
    assert [run(["store", "list"]), run(["store", "prune"])] == [0, 0]
    assert "there is no store" in capsys.readouterr().out
    path = store_place()
    assert isinstance(path, Path)
    assert not path.exists()


def test_an_age_of_another_form(capsys: pytest.CaptureFixture[str]) -> None:
    """An age that is none is one error with an example."""
    assert run(["store", "prune", "--older-than", "old"]) == 2
    assert "--older-than: got 'old', expected an age such as 12h or 30d" in capsys.readouterr().err
