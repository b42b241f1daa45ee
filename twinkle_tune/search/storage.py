"""Where Optuna keeps a search's record: in memory, in a file, or on a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from twinkle_tune.errors import TuneError, in_a_line
from twinkle_tune.search.record import SharedStudy
from twinkle_tune.server import CONNECT_S, Server, ServerAwayError, is_url, server_url, shown

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.storages.journal import JournalFileOpenLock
    from sqlalchemy import Connection

_STALE_LOCK_S = {False: 5, True: 15}
"""A lock that old is one of a killed process: nobody holds it for longer than one write. Longer where disks are far."""
_TABLES_S = 60.0
"""So long it may take until the tables are there: whoever comes first makes them, and the others wait."""
_LOCK = 7_461_934_502
"""Of PostgreSQL's advisory locks: Optuna's tables cannot be made by two at once. Any number of our own."""


def open_study(name: str, place: Path | SharedStudy | None) -> Study:
    """A search's study, made where it is not there.

    Raises:
        TuneError: the file or server cannot be used as its place.
    """
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces each study that it creates
    try:
        with usable(place):
            storage = None if place is None else _storage(place)
            sampler = optuna.samplers.RandomSampler(seed=0)  # never asked: configs are proposed by propose.py
            return optuna.create_study(study_name=name, storage=storage, load_if_exists=True, sampler=sampler)
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def usable(place: Path | SharedStudy | None) -> Iterator[None]:
    """What goes wrong with a study's place is told as one error.

    Raises:
        TuneError: it cannot be read or written, or is another program's.
    """
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, OptunaError, SQLAlchemyError) as error:
        where = place.place if isinstance(place, SharedStudy) else str(place)
        said = shown(f"{error}" if isinstance(error, OSError | ValueError | KeyError) else in_a_line(error, 300))
        if is_url(where):
            raise TuneError(
                f"{shown(where)}: cannot be used as the study of a search ({said}); repeat the command when the "
                "server is well: it goes on where it was"
            ) from error
        raise TuneError(
            f"{where}: cannot be used as the journal of a search ({said}), expected one written by twinkle_tune; "
            "move it away or name another"
        ) from error


def _storage(place: Path | SharedStudy) -> BaseStorage:
    if isinstance(place, Path):
        return _in_file(place, is_shared=False)
    if is_url(place.place):
        server = Server(place.place, "--study", wait_s=_TABLES_S)
        try:
            return server.run(partial(_on_server, place.place))
        except ServerAwayError as error:
            raise TuneError(f"{error}; repeat the command when it does: it goes on where it was") from error
        finally:
            server.close()
    return _in_file(Path(place.place).expanduser(), is_shared=True)


def _on_server(text: str, connection: Connection) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy import func, select

    url = server_url(text, "--study").render_as_string(hide_password=False)
    connection.execute(select(func.pg_advisory_lock(_LOCK)))
    try:
        return RDBStorage(
            url, engine_kwargs={"connect_args": {"connect_timeout": CONNECT_S}, "pool_pre_ping": True, "pool_size": 1}
        )
    finally:
        connection.execute(select(func.pg_advisory_unlock(_LOCK)))


def _in_file(path: Path, *, is_shared: bool) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _mending_lock(path, _STALE_LOCK_S[is_shared])
    lock.acquire()
    lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _mending_lock(path: Path, stale_s: int) -> JournalFileOpenLock:
    """The lock of a journal; who gets it finds whole lines, whoever was killed while writing."""
    from optuna.storages.journal import JournalFileOpenLock

    class MendingLock(JournalFileOpenLock):
        def acquire(self) -> bool:
            held = super().acquire()
            try:
                _mend(path)
            except BaseException:
                self.release()
                raise
            return held

    return MendingLock(str(path), grace_period=stale_s)


def _mend(path: Path) -> None:
    """Cut off a last line that a killed process left unfinished: what is written next would become part of it."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as file:
        file.seek(-1, 2)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
