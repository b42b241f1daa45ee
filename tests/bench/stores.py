"""What a store of a million outcomes costs, in a file and on a server of this machine: opening it, and finding one.

Made with a contest of a profile that ships. A server is skipped where there is no PostgreSQL.
"""

from __future__ import annotations

import atexit
import json
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cache
from pathlib import Path

from tests import postgres
from tests.bench.earlier import ROOT
from tests.bench.figure import Figure
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.past import Question, contest_text
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.profile.server_store import TABLE
from twinkle_tune.profile.store import Store
from twinkle_tune.profile.stores import store_at
from twinkle_tune.version import TOOL

OUTCOMES = 1_000_000
_PROFILE = ROOT / "profiles" / "amd-epyc" / "qwen3-tiny-inference.json"
_LOOKUPS, _OPENINGS = 300, 15

Place = tuple[Path | str | None, str]
"""Where a store is that was filled; or None, and why there is none."""

_open = ExitStack()
"""Folders and servers of the stores that were filled; they go with the process."""
atexit.register(_open.close)


def opening_time(outcomes: int = OUTCOMES) -> Figure:
    """From nothing to the first outcome that could be asked for."""
    return _opening(f"open a store of {outcomes:,} outcomes", _in_file(outcomes))


def lookup_time(outcomes: int = OUTCOMES) -> Figure:
    """An outcome that is there: found, read and checked."""
    return _lookups(f"find one of {outcomes:,} outcomes, read and check it", _in_file(outcomes), outcomes)


def miss_time(outcomes: int = OUTCOMES) -> Figure:
    """An outcome that is not there."""
    return _lookups(f"find that none of {outcomes:,} outcomes is the one", _in_file(outcomes), outcomes, is_there=False)


def server_opening_time(outcomes: int = OUTCOMES) -> Figure:
    """The same on a server: connected, and its table looked for."""
    return _opening(f"open a store of {outcomes:,} outcomes on a server of this machine", _on_server(outcomes))


def server_lookup_time(outcomes: int = OUTCOMES) -> Figure:
    """The same on a server."""
    return _lookups(f"find one of {outcomes:,} outcomes on a server of this machine", _on_server(outcomes), outcomes)


STORES = (opening_time, lookup_time, miss_time, server_opening_time, server_lookup_time)


def _opening(name: str, found: Place) -> Figure:
    place, why_not = found
    samples = []
    for _ in range(_OPENINGS if place else 0):
        assert place is not None
        began = time.perf_counter()
        store = store_at(place)
        samples.append((time.perf_counter() - began) * 1e3)
        store.close()
    return Figure(name=name, unit="ms", samples=tuple(samples), goal=50, skipped=why_not)


def _lookups(name: str, found: Place, outcomes: int, *, is_there: bool = True) -> Figure:
    place, why_not = found
    samples = []
    if place is not None:
        with closing(store_at(place)) as store:
            for number in _asked_for(outcomes):
                question = _question(number if is_there else outcomes + number)
                began = time.perf_counter()
                stored = store.recall(question)
                samples.append((time.perf_counter() - began) * 1e3)
                assert (stored is not None) == is_there
    return Figure(name=name, unit="ms", samples=tuple(samples), goal=1, skipped=why_not)


def _asked_for(outcomes: int) -> range:
    return range(0, outcomes, max(1, outcomes // _LOOKUPS))


@cache
def _in_file(outcomes: int) -> Place:
    text, folder = contest_text(_contest()), Path(_open.enter_context(tempfile.TemporaryDirectory()))
    if 3 * outcomes * len(text) > shutil.disk_usage(folder).free:
        return None, "skipped: no room for it on the disk of temporary files"
    path = folder / "store.sqlite"
    Store(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("PRAGMA journal_mode=OFF")  # written once, not twice
        base.execute("PRAGMA synchronous=OFF")
        base.execute("BEGIN")
        base.executemany("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _rows(outcomes, text))
        base.execute("COMMIT")
    return path, ""


def _rows(outcomes: int, text: str) -> Iterator[tuple[str, ...]]:
    told, chance, asked = json.dumps(_question(0).told), random.Random(0), _asked()
    wanted = set(_asked_for(outcomes))
    for number in range(outcomes):
        measured = f"2026-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        # Keys are digests: those that nobody asks for may as well be drawn, which takes a hundredth of the time.
        key = _question(number).key if number in wanted else f"{chance.getrandbits(64):016x}"
        yield key, measured, asked.slot, f"{number:016x}", "inference", "cpu", asked.environment, told, text


@cache
def _on_server(outcomes: int) -> Place:
    if postgres.why_not():
        return None, f"skipped: {postgres.why_not()}"
    import psycopg

    url = _open.enter_context(postgres.postgres_server()).url
    with closing(store_at(url)) as store:
        for number in _asked_for(outcomes):
            store.keep(_question(number), _contest())
    others = (
        f"INSERT INTO {TABLE} SELECT substr(md5(i::text), 1, 16), '2026-01-01T00:00:00Z', 's', i::text, 'inference', "
        "'cpu', 'e', %s, %s FROM generate_series(1, %s) i"
    )
    values = json.dumps(_question(0).told), contest_text(_contest()), outcomes - len(_asked_for(outcomes))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(others.encode(), values)
    return url, ""


@cache
def _profile() -> Profile:
    return load_profile(_PROFILE)


@cache
def _contest() -> Contest:
    """The contest of middle size."""
    by_size = sorted(_profile().contests, key=lambda contest: len(contest_text(contest)))
    return by_size[len(by_size) // 2]


@cache
def _asked() -> Question:
    contest, profile = _contest(), _profile()
    candidates = tuple((trial.candidate, trial.digest) for trial in contest.trials)
    return Question(
        slot=contest.slot.name,
        workload="",
        terms=profile.terms,
        environment=profile.environment.fingerprint,
        candidates=candidates,
        tool=TOOL,
    )


def _question(number: int) -> Question:
    return replace(_asked(), workload=f"{number:016x}")
