"""The store of past outcomes in one SQLite file: what a user has without asking.

Format history (the number is :data:`STORE_SCHEMA`, kept as SQLite's ``user_version``):

1. The first: a row for each question, with the contest as JSON; or, of a question about the whole model, the answer:
   ``{"whole": ...}``. There the slot says what was asked, and the workload is the model's digest.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from twinkle_tune.profile.folders import make_private
from twinkle_tune.profile.outcomes import STORE_VARIABLE, Entry, Outcomes, Row, StoreDamagedError, StoreError

STORE_SCHEMA = 1

_WAIT_S = 30.0
_HEAD_BYTES = 100
_COLUMNS = ("key", "measured", "slot", "workload", "mode", "device", "environment", "question", "contest")
_TABLE = """
CREATE TABLE outcomes (
    key TEXT PRIMARY KEY, measured TEXT NOT NULL, slot TEXT NOT NULL, workload TEXT NOT NULL, mode TEXT NOT NULL,
    device TEXT NOT NULL, environment TEXT NOT NULL, question TEXT NOT NULL, contest TEXT NOT NULL
)
"""


class Store(Outcomes):
    """Past outcomes in a file. Processes may use one at once (write-ahead log)."""

    def __init__(self, path: str | Path, *, reuse: bool = True) -> None:
        """Open it, and make it where it is not there; its folder is made for the user alone.

        Args:
            path: the file.
            reuse: whether outcomes are taken from it; if not, new ones replace them.

        Raises:
            StoreError: it cannot be opened, is damaged, or is of a newer version.
        """
        self.path = Path(path)
        self.where = str(self.path)
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

    def rows(self) -> tuple[Row, ...]:
        """As everywhere."""
        with self._told():
            found = self._base.execute(
                "SELECT key, measured, slot, workload, mode, device, environment FROM outcomes "
                "ORDER BY measured DESC, key"
            ).fetchall()
        names = Row.__dataclass_fields__
        return tuple(Row(**dict(zip(names, map(str, row), strict=True))) for row in found)

    def close(self) -> None:
        """As everywhere."""
        self._base.close()

    def _found(self, key: str) -> tuple[str, str] | None:
        with self._told():
            row = self._base.execute("SELECT measured, contest FROM outcomes WHERE key = ?", (key,)).fetchone()
        return None if row is None else (str(row[0]), str(row[1]))

    def _put(self, entry: Entry) -> None:
        with self._told():
            self._base.execute("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", entry.values)

    def _texts(self, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
        marks = ", ".join("?" * len(keys))
        with self._told():
            found = self._base.execute(
                f"SELECT key, question, contest FROM outcomes WHERE key IN ({marks})", list(keys)
            ).fetchall()
        return {str(key): (str(question), str(text)) for key, question, text in found}

    def _drop(self, oldest: str) -> int:
        with self._told():
            gone = self._base.execute("DELETE FROM outcomes WHERE measured <= ?", (oldest,)).rowcount
            self._base.execute("VACUUM")
        return gone

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
