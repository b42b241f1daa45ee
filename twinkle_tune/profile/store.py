"""The store of past outcomes: contests that need not be held again, in one SQLite file of the user.

Format history (the number is :data:`STORE_SCHEMA`, kept as SQLite's ``user_version``):

1. The first: a row for each question, with the contest as JSON.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twinkle_tune.errors import ProfileError, TuneError
from twinkle_tune.profile.folders import cache_folder, make_private
from twinkle_tune.profile.past import Question, contest_from_text, contest_text
from twinkle_tune.profile.schema import SCHEMA, Contest

STORE_SCHEMA = 1
STORE_VARIABLE = "TWINKLE_TUNE_STORE"
"""Environment variable: the store's file, or "off" for none."""

_WAIT_S = 30.0
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


def store_path() -> Path | None:
    """Where the store is: what the environment variable says, else in the user's cache folder; None for off."""
    named = os.environ.get(STORE_VARIABLE, "").strip()
    if named.lower() in ("off", "no", "0"):
        return None
    return Path(named).expanduser() if named else cache_folder() / "store.sqlite"


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
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreError(
                f"{self.path}: the store cannot be opened ({error}); set {STORE_VARIABLE} to a file that can be "
                "written, or to 'off'"
            ) from error
        with self._told():
            self._base = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None)
        try:
            with self._told():
                self._base.execute("PRAGMA journal_mode=WAL")
                self._prepare()
        except BaseException:
            self._base.close()
            raise

    def recall(self, question: Question) -> Stored | None:
        """The outcome of a question; None if there is none, or none is wanted.

        Raises:
            StoreDamagedError: the store, or the entry, is damaged.
            StoreError: it cannot be read now.
        """
        if not self.reuse:
            return None
        with self._told():
            row = self._base.execute("SELECT measured, contest FROM outcomes WHERE key = ?", (question.key,)).fetchone()
        return None if row is None else Stored(contest=self._read(row[1], question.key), measured=str(row[0]))

    def keep(self, question: Question, contest: Contest) -> None:
        """Put an outcome in, in the place of an older one of the same question.

        Raises:
            StoreError: it cannot be written.
        """
        values = (
            question.key,
            datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            question.slot,
            question.workload,
            str(question.mode),
            question.device,
            question.environment,
            json.dumps(asdict(question)),
            contest_text(contest),
        )
        with self._told():
            self._base.execute("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

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
        """Every entry as a line of JSON: key, time, question and contest, each contest checked.

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
            self._read(found[1], row.key)
            line = {
                "schema": SCHEMA,
                "key": row.key,
                "measured": row.measured,
                "question": json.loads(found[0]),
                "contest": json.loads(found[1]),
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

    def _prepare(self) -> None:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            (version,) = self._base.execute("PRAGMA user_version").fetchone()
            if version == 0 and not self._base.execute("SELECT name FROM sqlite_master").fetchall():
                self._base.execute(_TABLE)
                self._base.execute(f"PRAGMA user_version = {STORE_SCHEMA}")
            elif version != STORE_SCHEMA:
                raise StoreError(
                    f"{self.path}: got store version {version}, expected {STORE_SCHEMA}; upgrade twinkle_tune, or "
                    "move the file away"
                )
        finally:
            self._base.execute("COMMIT")

    def _read(self, text: object, key: str) -> Contest:
        advice = f"move {self.path} away, or remove the entries with 'twinkle-tune store prune'"
        try:
            return contest_from_text(str(text), f"{self.path}: entry {key}", advice)
        except ProfileError as error:
            raise StoreDamagedError(f"{error}" if advice in str(error) else f"{error}; {advice}") from error

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
