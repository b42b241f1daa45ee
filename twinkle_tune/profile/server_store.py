"""The store of past outcomes on a PostgreSQL server, which a team shares.

The table is made where it is not there. Its name ends with the version of the format, so that members with another
version of twinkle_tune have a table of their own, and nobody has to upgrade first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from twinkle_tune.profile.outcomes import (
    STORE_VARIABLE,
    Entry,
    Outcomes,
    Row,
    StoreAwayError,
    Stored,
    StoreDamagedError,
    StoreError,
)
from twinkle_tune.profile.past import Question
from twinkle_tune.profile.store import STORE_SCHEMA
from twinkle_tune.profile.whole import WholeAnswer, WholeQuestion
from twinkle_tune.server import WAIT_S, Server, ServerAwayError, ServerError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

TABLE = f"twinkle_tune_outcomes_{STORE_SCHEMA}"

Result = TypeVar("Result")

_LOCK = 7_461_934_501
"""Of PostgreSQL's advisory locks: two that make the table at once would both fail. Any number of our own."""


class ServerStore(Outcomes):
    """Past outcomes on a server. Nothing waits longer than the limit for it."""

    def __init__(self, url: str, *, reuse: bool = True, wait_s: float = WAIT_S) -> None:
        """Connect, and make the table where it is not there.

        Args:
            url: ``postgresql://user:password@host:5432/database``. What it leaves out (a password above all) is taken
                from where PostgreSQL's own programs take it: ``PGPASSWORD``, ``~/.pgpass``.
            reuse: whether outcomes are taken from it; if not, new ones replace them.
            wait_s: limit of one statement.

        Raises:
            StoreAwayError: the server does not answer.
            StoreError: the URL is wrong, the server refuses, or its driver is not installed.
        """
        self.reuse = reuse
        try:
            self._server = Server(url, STORE_VARIABLE, wait_s=wait_s)
        except ServerError as error:
            raise StoreError(str(error)) from error
        self.where = self._server.name
        self._table = _table()
        try:
            self._run(self._prepare)
        except BaseException:
            self.close()
            raise

    def recall(self, question: Question) -> Stored | None:
        """As everywhere; an entry that is damaged, which anyone of the team may have written, is as none at all."""
        return _unless_damaged(partial(super().recall, question))

    def recall_whole(self, question: WholeQuestion) -> WholeAnswer | None:
        """As :meth:`recall`."""
        return _unless_damaged(partial(super().recall_whole, question))

    def rows(self) -> tuple[Row, ...]:
        """As everywhere."""
        from sqlalchemy import select

        columns = [self._table.c[name] for name in Row.__dataclass_fields__]
        wanted = select(*columns).order_by(self._table.c.measured.desc(), self._table.c.key)
        found = self._run(lambda connection: connection.execute(wanted).mappings().all())
        return tuple(Row(**{name: str(row[name]) for name in Row.__dataclass_fields__}) for row in found)

    def close(self) -> None:
        """As everywhere."""
        self._server.close()

    def _found(self, key: str) -> tuple[str, str] | None:
        from sqlalchemy import select

        wanted = select(self._table.c.measured, self._table.c.contest).where(self._table.c.key == key)
        row = self._run(lambda connection: connection.execute(wanted).first())
        return None if row is None else (str(row[0]), str(row[1]))

    def _put(self, entry: Entry) -> None:
        from sqlalchemy.dialects.postgresql import insert

        values = asdict(entry)
        new = insert(self._table).values(values)
        written = new.on_conflict_do_update(index_elements=["key"], set_=values)
        self._run(lambda connection: connection.execute(written))

    def _texts(self, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
        from sqlalchemy import select

        columns = self._table.c
        wanted = select(columns.key, columns.question, columns.contest).where(columns.key.in_(keys))
        found = self._run(lambda connection: connection.execute(wanted).all())
        return {str(key): (str(question), str(text)) for key, question, text in found}

    def _drop(self, oldest: str) -> int:
        from sqlalchemy import delete

        old = delete(self._table).where(self._table.c.measured <= oldest)
        return self._run(lambda connection: connection.execute(old).rowcount)

    @property
    def _advice(self) -> str:
        return "it is replaced where the same is measured; 'twinkle-tune store prune' removes entries"

    def _prepare(self, connection: Connection) -> None:
        from sqlalchemy import func, inspect, select

        if inspect(connection).has_table(TABLE):  # also for those who may not make one
            return
        connection.execute(select(func.pg_advisory_lock(_LOCK)))
        try:
            self._table.create(connection, checkfirst=True)
        finally:
            connection.execute(select(func.pg_advisory_unlock(_LOCK)))

    def _run(self, work: Callable[[Connection], Result]) -> Result:
        try:
            return self._server.run(work)
        except ServerAwayError as error:
            raise StoreAwayError(f"{error}; set {STORE_VARIABLE}=off to go without it") from error
        except ServerError as error:
            raise StoreError(f"{error}; {STORE_VARIABLE}=off goes without it") from error


def _unless_damaged(recall: Callable[[], Result | None]) -> Result | None:
    try:
        return recall()
    except StoreDamagedError as error:
        warnings.warn(f"{error}; it is measured anew", stacklevel=4)
        return None


def _table() -> Table:
    from sqlalchemy import Column, MetaData, Table, Text

    columns = [Column(name, Text, primary_key=name == "key", nullable=False) for name in Entry.__dataclass_fields__]
    return Table(TABLE, MetaData(), *columns)
