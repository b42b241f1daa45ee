"""A PostgreSQL server for tests: of their own, in a folder of its own, on this machine alone, gone with them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

PASSWORD = "s3cr:t@of/the team"
"""With all that a URL has to quote."""
_AS = "nobody"
"""Who runs the server where the tests run as root, which PostgreSQL refuses."""


def why_not() -> str:
    """Why no server can be had here; "" where one can."""
    if _programs() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed (pip install 'twinkle_tune[postgres]')"
    if os.geteuid() == 0 and not any(each.pw_name == _AS for each in pwd.getpwall()):
        return f"PostgreSQL refuses root, and there is no user {_AS}"
    return ""


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A running server, whose user ``team`` needs :data:`PASSWORD`."""
    folder = Path(tempfile.mkdtemp(prefix="twinkle-pg-"))
    server = Postgres(folder)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Postgres:
    """A server; ``url`` is of its first database."""

    def __init__(self, folder: Path) -> None:
        programs = _programs()
        assert programs is not None
        self._programs, self._folder, self._made = programs, folder, 0
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    @property
    def url(self) -> str:
        """Of the database that is always there."""
        return self.url_of("postgres")

    def url_of(self, database: str, password: str = PASSWORD) -> str:
        """Of any database."""
        return f"postgresql://team:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The URL of a new database."""
        import psycopg

        self._made += 1
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE d{self._made}".encode())
        return self.url_of(f"d{self._made}")

    def initialise(self) -> None:
        """Make its files."""
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (self._folder, password):
                shutil.chown(path, _AS, pwd.getpwnam(_AS).pw_gid)
        self._run("initdb", "-A", "scram-sha-256", "-U", "team", "--pwfile", str(password), "--no-sync", "-E", "UTF8")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-w", "-o", options, "-l", str(self._folder / "log"), "start")

    def stop(self) -> None:
        """End it at once, as a crash would; nothing where it does not run."""
        if (self._folder / "data" / "postmaster.pid").exists():
            self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    @property
    def pid(self) -> int:
        """Of the process that answers new connections."""
        return int((self._folder / "data" / "postmaster.pid").read_text().split()[0])

    def _run(self, program: str, *arguments: str) -> None:
        who: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam(_AS)
            who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
        # No pipes: the server would keep them open.
        with (self._folder / "said").open("a") as said:
            done = subprocess.run(
                command, cwd=self._folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, **who
            )
        assert done.returncode == 0, (self._folder / "said").read_text()


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs: Debian keeps them out of PATH."""
    at = shutil.which("pg_ctl")
    folders = [Path(at).resolve().parent] if at else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((each for each in folders if (each / "initdb").exists() and (each / "postgres").exists()), None)
