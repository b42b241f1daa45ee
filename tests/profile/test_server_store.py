"""A team's store on a server: never in the way of a run, and never a password shown."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.postgres import PASSWORD, Postgres, postgres_server, why_not
from tests.profile.test_store import QUESTION
from tests.report import fabricate
from tests.tune.pretended import Pretended, pretended_profile, selections
from twinkle_tune.cli.app import run
from twinkle_tune.cli.past import open_store
from twinkle_tune.errors import TuneError
from twinkle_tune.profile.outcomes import StoreAwayError, StoreError
from twinkle_tune.profile.server_store import ServerStore
from twinkle_tune.profile.store import Store
from twinkle_tune.search.record import SharedStudy
from twinkle_tune.search.storage import open_study

URL = "postgresql://team:secret@127.0.0.1:{port}/outcomes"


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds, the shortest that the client library takes, to connect."""
    monkeypatch.setattr("twinkle_tune.server.CONNECT_S", 2)


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of what takes connections and says nothing."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield URL.format(port=listener.getsockname()[1])


@pytest.mark.usefixtures("short_waits")
def test_a_server_that_is_silent_or_absent_is_gone_without(silent: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A run has no store then and says so once, within seconds and without the password; ``store list`` is an error."""
    pytest.importorskip("psycopg")
    absent = URL.format(port=_free_port())
    for url in (silent, absent):
        began = time.monotonic()
        assert open_store(url, fresh=False) is None
        assert time.monotonic() - began < 8
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert "no store: postgresql://team:***@127.0.0.1" in told
        assert "the server does not answer" in told
    assert run(["store", "list", "--store", absent]) == 2
    assert "secret" not in capsys.readouterr().err


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_wrong_credentials_are_one_error_at_the_start(postgres: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong password, an unknown database: exit 2 with one line that says what to correct, and no password."""
    wrong = {
        "password authentication failed": postgres.url_of("postgres", "wr0ng-one"),
        'database "nowhere" does not exist': postgres.url_of("nowhere"),
    }
    for reason, url in wrong.items():
        with pytest.raises(StoreError, match=reason):
            open_store(url, fresh=False)
        assert run(["store", "list", "--store", url]) == 2
        told = capsys.readouterr().err
        assert (told.count("\n"), reason in told, "correct TWINKLE_TUNE_STORE" in told) == (1, True, True)
        assert not any(secret in told for secret in ("wr0ng-one", PASSWORD, url))


def test_a_wrong_url_is_one_error_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    """Another kind of server, or a password with characters that a URL must quote."""
    pytest.importorskip("psycopg")
    for url in ("mysql://me:secret@host/db", "postgresql://me:sec@ret/1@host:port/db"):
        assert run(["store", "list", "--store", url]) == 2
        told = capsys.readouterr().err
        assert "expected one such as postgresql://user@host:5432/database" in told
        assert "sec" not in told.replace("seconds", "")


def test_a_server_that_dies_in_a_run_costs_one_warning(tmp_path: Path) -> None:
    """The run ends as it would have without a store; what it had taken is there when the server is back."""
    if why_not():
        pytest.skip(why_not())
    alone = selections(pretended_profile(Pretended(), store=Store(tmp_path / "s")))
    with postgres_server() as server:
        url = server.database()
        store = ServerStore(url)
        store.keep(QUESTION, fabricate.won())
        server.stop()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            assert selections(pretended_profile(Pretended(), store=store)) == alone
        (told,) = [str(each.message) for each in warned if "goes without it" in str(each.message)]
        assert "the server does not answer" in told
        server.start()
        assert ServerStore(url).recall(QUESTION) is not None
        assert store.recall(QUESTION) is not None  # a handle from before connects anew


@pytest.mark.usefixtures("short_waits")
def test_a_server_that_stops_in_the_middle_is_not_waited_for() -> None:
    """Frozen, its side of the connection open: the lookup ends by the limit."""
    if why_not():
        pytest.skip(why_not())
    with postgres_server() as server:
        store = ServerStore(server.database(), wait_s=1)
        frozen = [server.pid, *map(int, _children(server.pid))]
        for process in frozen:
            os.kill(process, signal.SIGSTOP)
        began = time.monotonic()
        try:
            with pytest.raises(StoreAwayError, match="does not answer"):
                store.recall(QUESTION)
            assert time.monotonic() - began < 8
        finally:
            for process in frozen:
                os.kill(process, signal.SIGCONT)


def _children(process: int) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def test_without_the_driver_the_file_works_and_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """psycopg missing: a store in a file is listed; one on a server, or a study there, is an error with the command."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    Store(tmp_path / "s").keep(QUESTION, fabricate.won())
    assert run(["store", "list", "--store", str(tmp_path / "s")]) == 0
    assert "RMSNorm" in capsys.readouterr().out
    assert run(["store", "list", "--store", URL.format(port=5432)]) == 2
    with pytest.raises(TuneError) as caught:
        open_study("search", SharedStudy(place=URL.format(port=5432)))
    for told in (capsys.readouterr().err, str(caught.value)):
        assert "which needs psycopg" in told
        assert "pip install 'twinkle_tune[postgres]'" in told
        assert "secret" not in told
