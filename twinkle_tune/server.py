"""A PostgreSQL server that is named by a URL: reached with a limit of time, and shown without its password."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from twinkle_tune.errors import TuneError, in_a_line

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import DBAPIError

WAIT_S = 10.0
"""A statement that takes longer is given up: the server is away, or too busy to be of use."""
CONNECT_S = 5
EXAMPLE = "postgresql://user@host:5432/database"

Result = TypeVar("Result")

_DRIVERS = ("postgresql", "postgres", "postgresql+psycopg")
# A name or a password that should have been quoted may hold anything: from the first colon to the last @ all is hidden.
_PASSWORD = re.compile(r"(\w+://[^:]*):.*@", re.DOTALL)
_PARAMETER = re.compile(r"([?&](?:ssl)?password=)[^&'\"]*", re.IGNORECASE)


class ServerError(TuneError):
    """A database server cannot be used: a wrong URL, a missing driver, a user or database that it does not know."""


class ServerAwayError(ServerError):
    """A database server does not answer, or not in time."""


def is_url(text: str) -> bool:
    """Whether a text names a server, and no file."""
    return "://" in text


def shown(text: str) -> str:
    """A text without the passwords of the URLs in it."""
    return _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def server_url(text: str, what: str) -> URL:
    """A server's URL, with its driver; ``what`` names the option or variable that it comes from.

    Raises:
        ServerError: it is none, or what talks to such a server is not installed.
    """
    try:
        import psycopg  # noqa: F401
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError as error:
        raise ServerError(
            f"{what}: got {shown(text)}, which needs {error.name or 'psycopg'} ({in_a_line(error, 200)}); install it: "
            "pip install 'twinkle_tune[postgres]'"
        ) from error
    expected = f"expected one such as {EXAMPLE}, with special characters of the password as %XX"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ServerError(f"{what}: got {shown(text)}, which is no URL, {expected}") from None
    # With a second @ a part of the password would be taken for the host, and shown as one.
    if url.drivername not in _DRIVERS or text.partition("?")[0].count("@") > 1:
        raise ServerError(f"{what}: got {shown(text)}, {expected}")
    return url.set(drivername="postgresql+psycopg")


class Server:
    """A server that statements are run on, each with a limit of time.

    Attributes:
        name: its URL without the password.
    """

    def __init__(self, text: str, what: str, *, wait_s: float = WAIT_S) -> None:
        """Nothing is connected yet.

        Args:
            text: the URL.
            what: the option or variable that names it, for messages.
            wait_s: the limit of one statement.

        Raises:
            ServerError: as :func:`server_url`.
        """
        from sqlalchemy import create_engine

        url = server_url(text, what)
        self.name = shown(text)
        self._what, self._wait_s = what, wait_s
        self._engine: Engine = create_engine(
            url, isolation_level="AUTOCOMMIT", pool_size=1, connect_args={"connect_timeout": CONNECT_S}
        )

    def run(self, work: Callable[[Connection], Result]) -> Result:
        """What ``work`` gives, done on one connection; once more on a new one where the connection was lost.

        Raises:
            ServerAwayError: it does not answer, or not in time.
            ServerError: it refuses.
        """
        from sqlalchemy.exc import DBAPIError

        for is_last in (False, True):
            try:
                with self._engine.connect() as connection, self._bounded(connection):
                    return work(connection)
            except DBAPIError as error:
                if is_last or not error.connection_invalidated:
                    raise self._told(error) from None
        raise AssertionError

    def close(self) -> None:
        """Let go of the connection."""
        self._engine.dispose()

    @contextmanager
    def _bounded(self, connection: Connection) -> Iterator[None]:
        """Hang up after the limit: a server that stopped in the middle keeps its side of the connection open."""
        driver = connection.connection.driver_connection
        assert driver is not None
        timer = threading.Timer(self._wait_s, _hang_up, [driver.fileno()])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _told(self, error: DBAPIError) -> ServerError:
        said = shown(in_a_line(error.orig or error, 300))
        if error.connection_invalidated or self._is_away(error):
            return ServerAwayError(f"{self.name}: the server does not answer ({said})")
        return ServerError(
            f"{self.name}: the server refuses ({said}); correct {self._what}, or ask whoever keeps the server"
        )

    def _is_away(self, error: DBAPIError) -> bool:
        """Whether nobody answers there, as the client library finds; it is asked only when something failed."""
        from psycopg import OperationalError, errors, pq
        from psycopg.conninfo import make_conninfo

        if isinstance(error.orig, errors.ConnectionTimeout):
            return True
        if not isinstance(error.orig, OperationalError) or error.orig.sqlstate:
            return False
        _, arguments = self._engine.dialect.create_connect_args(self._engine.url)
        told: dict[str, Any] = {name: value for name, value in arguments.items() if isinstance(value, str | int)}
        found = pq.PGconn.ping(make_conninfo(**told).encode())
        return found in (pq.Ping.REJECT, pq.Ping.NO_RESPONSE)


def _hang_up(file: int) -> None:
    with suppress(OSError):
        connection = socket.socket(fileno=os.dup(file))
        try:
            connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.close()
