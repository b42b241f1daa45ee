"""The store of past outcomes: contests that need not be held again, and what the whole model said, in one SQLite file.

Format history (the number is :data:`STORE_SCHEMA`, kept as SQLite's ``user_version``):

1. The first: a row for each question, with the contest as JSON; or, of a question about the whole model, the answer:
   ``{"whole": ...}``. There the slot says what was asked, and the workload is the model's digest.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from twinkle_tune.errors import ProfileError, TuneError
from twinkle_tune.profile.folders import cache_folder, make_private
from twinkle_tune.profile.format import SCHEMA
from twinkle_tune.profile.past import Question, contest_from_text, contest_text
from twinkle_tune.profile.schema import Contest
from twinkle_tune.profile.whole import WholeAnswer, WholeQuestion, answer_from_text, answer_text

STORE_SCHEMA = 1
STORE_VARIABLE = "TWINKLE_TUNE_STORE"
"""Environment variable: the store's file, or "off" for none."""

Value = TypeVar("Value")

_WHOLE = '{"whole"'
"""How the text of an answer of the whole model begins; a contest's begins with its slot."""
_WAIT_S = 30.0
_HEAD_BYTES = 100
_COLUMNS = ("key", "measured", "slot", "workload", "mode", "device", "environment", "question", "contest")
_TABLE = """
CREATE TABLE outcomes (
    key TEXT PRIMARY KEY, measured TEXT NOT NULL, slot TEXT NOT NULL, workload TEXT NOT NULL, mode TEXT NOT NULL,
    device TEXT NOT NULL, environment TEXT NOT NULL, question TEXT NOT NULL, contest TEXT NOT NULL
)
"""


class StoreError(TuneError):
    """The store cannot be opened, read or written, or is damaged."""


class StoreDamagedError(StoreError):
    """The store, or an entry of it, is not what was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A contest of the store; ``measured`` is the UTC time, ISO 8601, to the second."""

    contest: Contest
    measured: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the store's listing."""

    key: str
    measured: str
    slot: str
    workload: str
    mode: str
    device: str
    environment: str


def store_path(folder: Path | None = None) -> Path | None:
    """Where the store is: what the environment variable says, else in the user's cache folder; None for off.

    Args:
        folder: in the place of the cache folder.

    Raises:
        StoreError: the variable speaks of an unknown home.
    """
    named = os.environ.get(STORE_VARIABLE, "").strip()
    if named.lower() in ("off", "no", "0"):
        return None
    try:
        return Path(named).expanduser() if named else (folder or cache_folder()) / "store.sqlite"
    except RuntimeError as error:
        raise StoreError(
            f"{STORE_VARIABLE}: got {named!r:.80}, of which no home is known ({error}); give a whole path"
        ) from error


class Store:
    """Past outcomes by their questions. Processes may use one file at once (write-ahead log)."""

    def __init__(self, path: str | Path, *, reuse: bool = True) -> None:
        """Open it, and make it where it is not there; its folder is made for the user alone.

        Args:
            path: the file.
            reuse: whether outcomes are taken from it; if not, new ones replace them.

        Raises:
            StoreError: it cannot be opened, is damaged, or is of a newer version.
        """
        self.path = Path(path)
        self.reuse = reuse
        try:
            make_private(self.path.parent)
            # Before SQLite makes it, which would go by the process's mask.
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
            with os.fdopen(file, "rb") as opened:
                is_file, head = stat.S_ISREG(os.fstat(file).st_mode), b""
                if is_file:
                    head = opened.read(_HEAD_BYTES)
        except OSError as error:
            raise StoreError(
                f"{self.path}: the store cannot be opened ({error}); set {STORE_VARIABLE} to a file that can be "
                "written, or to 'off'"
            ) from error
        if not is_file:
            raise StoreError(f"{self.path}: got no file, expected one for the store; set {STORE_VARIABLE} to a file")
        with self._told():
            self._look(head)
            self._base = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None)
        try:
            with self._told():
                self._prepare()
                self._base.execute("PRAGMA journal_mode=WAL")
        except BaseException:
            self._base.close()
            raise

    def recall(self, question: Question) -> Stored | None:
        """The outcome of a question; None if there is none, or none is wanted.

        Raises:
            StoreDamagedError: the store, or the entry, is damaged.
            StoreError: it cannot be read now.
        """
        row = self._row(question.key)
        return None if row is None else Stored(contest=self._read(row[1], question.key), measured=row[0])

    def recall_whole(self, question: WholeQuestion) -> WholeAnswer | None:
        """The answer to a question about the whole model, which says when it was measured; None as for a contest.

        Raises:
            StoreDamagedError, StoreError: as :meth:`recall`.
        """
        row = self._row(question.key)
        return None if row is None else self._read_whole(row[1], question.key).measured_at(row[0])

    def keep(self, question: Question, contest: Contest) -> None:
        """Put an outcome in, in the place of an older one of the same question.

        Raises:
            StoreError: it cannot be written.
        """
        self._put(question, question.slot, question.workload, contest_text(contest))

    def keep_whole(self, question: WholeQuestion, answer: WholeAnswer) -> None:
        """Put an answer in, in the place of an older one of the same question.

        Raises:
            StoreError: it cannot be written.
        """
        self._put(question, question.title, question.model, answer_text(answer))

    def rows(self) -> tuple[Row, ...]:
        """What is in it, newest first.

        Raises:
            StoreError: it cannot be read.
        """
        with self._told():
            found = self._base.execute(
                "SELECT key, measured, slot, workload, mode, device, environment FROM outcomes "
                "ORDER BY measured DESC, key"
            ).fetchall()
        names = Row.__dataclass_fields__
        return tuple(Row(**dict(zip(names, map(str, row), strict=True))) for row in found)

    def export(self) -> Iterator[str]:
        """Every entry as a line of JSON: key, time, question and contest (or "whole", an answer), each checked.

        Raises:
            StoreError: it cannot be read, or an entry is damaged.
        """
        for row in self.rows():
            with self._told():
                found = self._base.execute(
                    "SELECT question, contest FROM outcomes WHERE key = ?", (row.key,)
                ).fetchone()
            if found is None:  # pruned meanwhile
                continue
            is_whole = str(found[1]).startswith(_WHOLE)
            (self._read_whole if is_whole else self._read)(found[1], row.key)
            outcome = json.loads(found[1])
            line = {
                "schema": SCHEMA,
                "key": row.key,
                "measured": row.measured,
                "question": json.loads(found[0]),
                **(outcome if is_whole else {"contest": outcome}),
            }
            yield json.dumps(line)

    def prune(self, older_than_s: float = 0.0) -> int:
        """Remove entries older than so many seconds (all by default); returns how many.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            oldest = (datetime.now(UTC) - timedelta(seconds=older_than_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
        except OverflowError:  # before the first year; nothing is as old
            return 0
        with self._told():
            gone = self._base.execute("DELETE FROM outcomes WHERE measured <= ?", (oldest,)).rowcount
            self._base.execute("VACUUM")
        return gone

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def _look(self, head: bytes) -> None:
        """Refuse what is another program's before anything is written: opening a database may already change it."""
        if not head:
            return
        if not head.startswith(b"SQLite format 3\0"):
            raise sqlite3.DatabaseError("file is not a database")
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        # Only what another process wrote last may be in the log beside it; without one the file itself is all.
        is_logged = os.path.exists(f"{self.path}-wal") and os.path.getsize(f"{self.path}-wal") > 0
        base = sqlite3.connect(uri if is_logged else f"{uri}&immutable=1", uri=True, timeout=_WAIT_S)
        try:
            # What cannot be read like this (another process is writing) is told where it is opened.
            with suppress(sqlite3.DatabaseError):
                self._check(base)
        finally:
            base.close()

    def _check(self, base: sqlite3.Connection) -> bool:
        """Whether the table is there; StoreError where it is another program's, or of another version."""
        (version,) = base.execute("PRAGMA user_version").fetchone()
        tables = {str(name) for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if version == 0 and not tables:
            return False
        columns = [str(row[1]) for row in base.execute("PRAGMA table_info(outcomes)")]
        if not set(_COLUMNS) <= set(columns):
            raise StoreError(
                f"{self.path}: got another program's database (tables {', '.join(sorted(tables)) or 'none'}), expected "
                f"the store of twinkle-tune; nothing in it was changed: set {STORE_VARIABLE} to a file of its own, or "
                "move the file away"
            )
        if version != STORE_SCHEMA:
            raise StoreError(
                f"{self.path}: got store version {version}, expected {STORE_SCHEMA}; upgrade twinkle_tune, or "
                "move the file away"
            )
        return True

    def _prepare(self) -> None:
        if self._check(self._base):
            return
        self._base.execute("BEGIN IMMEDIATE")
        try:
            if not self._check(self._base):  # nobody else has made it meanwhile
                self._base.execute(_TABLE)
                self._base.execute(f"PRAGMA user_version = {STORE_SCHEMA}")
        finally:
            self._base.execute("COMMIT")

    def _read(self, text: object, key: str) -> Contest:
        return self._checked(contest_from_text, text, key)

    def _read_whole(self, text: object, key: str) -> WholeAnswer:
        return self._checked(answer_from_text, text, key)

    def _checked(self, read: Callable[[str, str, str], Value], text: object, key: str) -> Value:
        advice = f"move {self.path} away, or remove the entries with 'twinkle-tune store prune'"
        try:
            return read(str(text), f"{self.path}: entry {key}", advice)
        except ProfileError as error:
            raise StoreDamagedError(f"{error}" if advice in str(error) else f"{error}; {advice}") from error

    def _row(self, key: str) -> tuple[str, str] | None:
        """When an outcome was measured, and its text; None if there is none, or none is wanted."""
        if not self.reuse:
            return None
        with self._told():
            row = self._base.execute("SELECT measured, contest FROM outcomes WHERE key = ?", (key,)).fetchone()
        return None if row is None else (str(row[0]), str(row[1]))

    def _put(self, question: Question | WholeQuestion, slot: str, workload: str, text: str) -> None:
        values = (
            question.key,
            datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            slot,
            workload,
            str(question.terms.mode),
            question.terms.device,
            question.environment,
            json.dumps(question.told),
            text,
        )
        with self._told():
            self._base.execute("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"{self.path}: the store cannot be used ({error}); make room or wait for the other run, or set "
                f"{STORE_VARIABLE}=off to go without it"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreDamagedError(
                f"{self.path}: the store is damaged ({error}), expected an SQLite file of twinkle-tune; move it "
                f"away (with {self.path.name}-wal and -shm beside it): past outcomes are then measured anew"
            ) from error
